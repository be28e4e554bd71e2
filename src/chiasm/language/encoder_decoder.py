"""T5's encoder–decoder: T5, T5 v1.1, Flan-T5, mT5 (Raffel et al. 2020, §2.1; Shazeer 2020 for the gated MLP).

Pre-norm with RMSNorm, no biases, scores not divided by √C, a learned bias for each bucket of distance that all layers
of a stack share. v1.1 and its kin gate the MLP and don't tie the output layer; the first T5 ties it and scales what it
reads by 1/√D.

Departure: no dropout.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.nn.attention import AttentionConfig
from chiasm.nn.blocks import Block, BlockConfig
from chiasm.nn.cache import Cache
from chiasm.nn.cross_blocks import CrossBlock
from chiasm.nn.fusion_blocks import Context, context_mask
from chiasm.nn.masks import attention_mask, biased, real_tokens
from chiasm.nn.mlp import GatedMLPConfig, MLPConfig
from chiasm.nn.norms import RMSNorm
from chiasm.nn.position_bias import RelativeBiasConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderDecoderConfig:
    """A T5.

    Attributes:
        vocab_size, hidden_dim, num_heads, head_dim, mlp_dim: V, D, H, C, M.
        num_layers, num_decoder_layers: L of either stack.
        start_id: id of the token that every reply begins with.
        norm_eps: ε of every RMSNorm.
        bias: buckets of distance.
        act: activation of the MLP, or of its gate.
        gated: the MLP has a gate.
        tie_embeddings: the output layer is the input embedding.
        scale_logits: the output layer reads states times 1/√D.
    """

    vocab_size: int
    hidden_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_layers: int
    num_decoder_layers: int
    start_id: int = 0
    norm_eps: float = 1e-6
    bias: RelativeBiasConfig = field(default_factory=RelativeBiasConfig)
    act: str = "gelu_new"
    gated: bool = True
    tie_embeddings: bool = False
    scale_logits: bool = False

    def attention(self) -> AttentionConfig:
        return AttentionConfig(
            hidden_dim=self.hidden_dim,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            qkv_bias=False,
            out_bias=False,
            scale=1.0,
        )

    def block(self) -> BlockConfig:
        kind = GatedMLPConfig if self.gated else MLPConfig
        mlp = kind(input_dim=self.hidden_dim, hidden_dim=self.mlp_dim, act=self.act, bias=False)
        return BlockConfig(attention=self.attention(), mlp=mlp, norm_eps=self.norm_eps, rms_norm=True)

    def build(self) -> EncoderDecoder:
        return EncoderDecoder(self)


class EncoderDecoder(nn.Module):
    """Input embeddings → encoder; ids → decoder over it → logits."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.config = config
        block, cross = config.block(), config.attention()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_dim)
        self.encoder_bias = config.bias.build(config.num_heads, bidirectional=True)
        self.encoder_blocks = nn.ModuleList(Block(block) for _ in range(config.num_layers))
        self.encoder_norm = RMSNorm(config.hidden_dim, config.norm_eps)
        self.decoder_bias = config.bias.build(config.num_heads, bidirectional=False)
        self.decoder_blocks = nn.ModuleList(CrossBlock(block, cross) for _ in range(config.num_decoder_layers))
        self.decoder_norm = RMSNorm(config.hidden_dim, config.norm_eps)
        self.lm_head: nn.Module | None = None  # None = the input embedding
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.hidden_dim, config.vocab_size, bias=False)

    def init_weights(self) -> None:
        """Draw matrices as the reference does: scores aren't divided, so queries start smaller by √C."""
        config = self.config
        nn.init.normal_(self.embed_tokens.weight, std=1.0)
        for bias in (self.encoder_bias, self.decoder_bias):
            nn.init.normal_(bias.table.weight, std=config.hidden_dim**-0.5)
        for name, part in self.named_modules():
            if isinstance(part, nn.Linear):
                smaller = config.head_dim**-0.5 if name.endswith("q_proj") else 1.0
                nn.init.normal_(part.weight, std=smaller * part.in_features**-0.5)

    def encode(self, embeds: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """Read a prompt.

        Args:
            embeds: (B, S, D) input embeddings.
            attend: (B, S) bool, True = a real token; None = no padding.

        Returns:
            (B, S, D), normalised.
        """
        length = embeds.shape[1]
        mask = attention_mask(real_tokens(attend), causal=False, queries=length, keys=length)
        mask = biased(mask, self.encoder_bias(length, length))
        x = embeds
        for block in self.encoder_blocks:
            x = block(x, mask=mask)
        return self.encoder_norm(x)

    def context(self, encoded: torch.Tensor, attend: torch.Tensor | None = None) -> Context:
        """What `encode` gave (B, S, D), its keys and values computed once for every layer of the decoder."""
        projected = [block.cross_attn.project(encoded) for block in self.decoder_blocks]  # type: ignore[union-attr,operator]
        return Context(None, context_mask(attend), projected)

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for `batch` replies of up to `capacity` positions."""
        weight, config = self.embed_tokens.weight, self.config
        return Cache(
            config.num_decoder_layers,
            batch,
            config.num_heads,
            capacity,
            config.head_dim,
            dtype=weight.dtype,
            device=weight.device,
        )

    def forward(self, ids: torch.Tensor, context: Context, cache: Cache | None = None) -> torch.Tensor:
        """Hidden states of the reply's tokens.

        Args:
            ids: (B, T), beginning with `start_id`.
            context: from `context`.
            cache: keys and values so far; T new ones are added.

        Returns:
            (B, T, D), normalised; `logits` turns them into scores.
        """
        length, past = ids.shape[1], cache.length if cache is not None else 0
        mask = attention_mask(None, causal=True, queries=length, keys=past + length, device=ids.device)
        mask = biased(mask, self.decoder_bias(length, past + length))
        x = self.embed_tokens(ids)
        for layer, block in enumerate(self.decoder_blocks):
            x = block(x, context=context, mask=mask, cache=cache, layer=layer)
        if cache is not None:
            cache.advance(length)
        return self.decoder_norm(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, D) hidden states → (…, V) logits."""
        if self.config.scale_logits:
            hidden = hidden * self.config.hidden_dim**-0.5
        return F.linear(hidden, self.embed_tokens.weight) if self.lm_head is None else self.lm_head(hidden)
