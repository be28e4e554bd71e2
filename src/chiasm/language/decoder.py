"""The LLaMA-family decoder: LLaMA, Vicuna, Mistral, Qwen2, SmolLM2 and their kin (Touvron et al. 2023, §2.2).

Pre-norm blocks with RMSNorm, rotary positions, grouped-query attention (Ainslie et al. 2023), a SwiGLU MLP.
Qwen2 adds biases to the query, key and value projections; small models tie the output to the input embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.nn.attention import AttentionConfig
from chiasm.nn.blocks import Block, BlockConfig
from chiasm.nn.cache import Cache
from chiasm.nn.masks import AttentionMask, attention_mask
from chiasm.nn.mlp import GatedMLPConfig
from chiasm.nn.norms import RMSNorm
from chiasm.nn.positions import RotaryConfig, rotary_tables


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """A causal language model.

    Attributes:
        vocab_size, hidden_dim, num_layers, num_heads, num_kv_heads, mlp_dim: V, D, L, H, K, M.
        head_dim: C; None = D / H.
        context_length: most positions it was trained for.
        norm_eps: ε of every RMSNorm.
        rotary: its positions.
        qkv_bias, out_bias, mlp_bias: which projections have a bias.
        tie_embeddings: the output layer is the input embedding.
        act: activation of the MLP's gate.
    """

    vocab_size: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    mlp_dim: int
    context_length: int
    norm_eps: float
    head_dim: int | None = None
    rotary: RotaryConfig = field(default_factory=RotaryConfig)
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    tie_embeddings: bool = False
    act: str = "silu"

    @property
    def head_width(self) -> int:
        """C."""
        return self.head_dim or self.hidden_dim // self.num_heads

    def block(self) -> BlockConfig:
        attention = AttentionConfig(
            hidden_dim=self.hidden_dim,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_width,
            qkv_bias=self.qkv_bias,
            out_bias=self.out_bias,
        )
        mlp = GatedMLPConfig(input_dim=self.hidden_dim, hidden_dim=self.mlp_dim, act=self.act, bias=self.mlp_bias)
        return BlockConfig(attention=attention, mlp=mlp, norm_eps=self.norm_eps, rms_norm=True)

    def build(self) -> Decoder:
        return Decoder(self)


class Decoder(nn.Module):
    """Embeddings → hidden states → logits."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_dim)
        self.blocks = nn.ModuleList(Block(config.block()) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_dim, config.norm_eps)
        self.lm_head = None if config.tie_embeddings else nn.Linear(config.hidden_dim, config.vocab_size, bias=False)
        self._frequencies: torch.Tensor | None = None

    def init_weights(self) -> None:
        """Draw embeddings as the reference does."""
        nn.init.normal_(self.embed_tokens.weight, std=0.02)

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for `batch` sequences of up to `capacity` positions."""
        weight, config = self.embed_tokens.weight, self.config
        return Cache(
            config.num_layers,
            batch,
            config.num_kv_heads,
            capacity,
            config.head_width,
            dtype=weight.dtype,
            device=weight.device,
        )

    def forward(
        self,
        embeds: torch.Tensor,
        *,
        attend: torch.Tensor | AttentionMask | None = None,
        positions: torch.Tensor | None = None,
        cache: Cache | None = None,
    ) -> torch.Tensor:
        """Hidden states of new tokens.

        Args:
            embeds: (B, T, D) input embeddings.
            attend: (B, S) bool over cached and new positions, True = a real token; None = no padding;
                a mask of its own (`packed_mask`) is taken as it is.
            positions: (B, T) or (1, T) rotary positions; None = counted from the cache's length.
            cache: keys and values so far; T new ones are added.

        Returns:
            (B, T, D), normalised; `logits` turns them into scores.
        """
        length, past = embeds.shape[1], cache.length if cache is not None else 0
        if positions is None:
            positions = torch.arange(past, past + length, device=embeds.device)[None]
        rotary = rotary_tables(positions, self._rotary_frequencies(embeds.device), embeds.dtype)
        mask = attend
        if not isinstance(mask, AttentionMask):
            mask = attention_mask(mask, causal=True, queries=length, keys=past + length, device=embeds.device)
        x = embeds
        for layer, block in enumerate(self.blocks):
            x = block(x, mask=mask, rotary=rotary, cache=cache, layer=layer)
        if cache is not None:
            cache.advance(length)
        return self.norm(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, D) hidden states → (…, V) logits."""
        weight = self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        return F.linear(hidden, weight)

    def _rotary_frequencies(self, device: torch.device) -> torch.Tensor:
        # derived from the config, not a buffer: a module built on the meta device must still rotate
        if self._frequencies is None or self._frequencies.device != device:
            self._frequencies = self.config.rotary.frequencies(self.config.head_width).to(device)
        return self._frequencies
