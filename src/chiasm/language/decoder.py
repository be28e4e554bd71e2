"""Causal language models as one decoder: the LLaMA family, OPT, GPT-2, MPT, Phi-3, Qwen, Magneto and PaLM.

LLaMA and its kin (Touvron et al. 2023, §2.2): pre-norm blocks with RMSNorm, rotary positions, grouped-query attention
(Ainslie et al. 2023), a SwiGLU MLP. Qwen adds biases to the query, key and value projections; small models tie the
output to the input embedding. GPT-2 and OPT: LayerNorm, learned positions, a plain MLP, biases everywhere. MPT: ALiBi,
no bias at all. Magneto (Wang et al. 2022): a further norm inside attention and MLP. PaLM (Chowdhery et al. 2022, §2):
attention and MLP in parallel, one head of keys and values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.nn.additive_positions import LearnedPositionsConfig, SinusoidPositionsConfig
from chiasm.nn.attention import Attention, AttentionConfig, QKNormConfig, Rotary, kept
from chiasm.nn.blocks import Block, BlockConfig, ParallelBlock
from chiasm.nn.cache import AnyCache, Cache, JointStep, SlotCache
from chiasm.nn.masks import AttentionMask, attention_mask, biased
from chiasm.nn.mlp import GatedMLPConfig, MLPConfig
from chiasm.nn.position_bias import AlibiConfig
from chiasm.nn.positions import (
    LogRotaryConfig,
    MultimodalRotaryConfig,
    RotaryConfig,
    XPosConfig,
    multimodal_tables,
    of_queries,
    rotary_tables,
    xpos_tables,
)

MOST_FREQUENCIES = 64  # lengths whose frequencies are kept, where they depend on a sequence's length


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """A causal language model.

    Attributes:
        vocab_size, hidden_dim, num_layers, num_heads, num_kv_heads, mlp_dim: V, D, L, H, K, M.
        head_dim: C; None = D / H.
        context_length: most positions it was trained for.
        norm_eps: ε of every norm.
        rotary: rotary positions; None = none.
        positions: positions added to the input, or to attention's scores; None = none.
        qkv_bias, out_bias, mlp_bias: which projections have a bias.
        tie_embeddings: the output layer is the input embedding.
        head_bias: the output layer has a bias.
        act: activation of the MLP, or of its gate.
        rms_norm: RMSNorm, not LayerNorm.
        norm_bias: whether a LayerNorm has a bias.
        gated: the MLP has a gate.
        inner_norms: a LayerNorm before each block's two output projections (Magneto).
        parallel: attention and MLP read the same normalised input (PaLM).
        embed_scale: what input embeddings are multiplied by.
        qk_norm: norms of queries and keys; None = none.
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
    rotary: RotaryConfig | None = field(default_factory=RotaryConfig)
    positions: LearnedPositionsConfig | SinusoidPositionsConfig | AlibiConfig | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    tie_embeddings: bool = False
    head_bias: bool = False
    act: str = "silu"
    rms_norm: bool = True
    norm_bias: bool = True
    gated: bool = True
    inner_norms: bool = False
    parallel: bool = False
    embed_scale: float = 1.0
    qk_norm: QKNormConfig | None = None

    @property
    def head_width(self) -> int:
        """C."""
        return self.head_dim or self.hidden_dim // self.num_heads

    @property
    def rotary_width(self) -> int:
        """Features of a head that turn."""
        return self.head_width

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """Heads, key width and value width of what one layer keeps of a token."""
        return self.num_kv_heads, self.head_width, self.head_width

    def layer(self, index: int) -> nn.Module:
        """The layer at `index`, with random weights."""
        return (ParallelBlock if self.parallel else Block)(self.block())

    def block(self) -> BlockConfig:
        inner = self.norm_eps if self.inner_norms else None
        attention = AttentionConfig(
            hidden_dim=self.hidden_dim,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_width,
            qkv_bias=self.qkv_bias,
            out_bias=self.out_bias,
            inner_norm_eps=inner,
            qk_norm=self.qk_norm,
        )
        mlp: GatedMLPConfig | MLPConfig
        if self.gated:
            assert inner is None, "a gated MLP has no inner norm"
            mlp = GatedMLPConfig(input_dim=self.hidden_dim, hidden_dim=self.mlp_dim, act=self.act, bias=self.mlp_bias)
        else:
            mlp = MLPConfig(
                input_dim=self.hidden_dim,
                hidden_dim=self.mlp_dim,
                act=self.act,
                bias=self.mlp_bias,
                inner_norm_eps=inner,
            )
        return BlockConfig(
            attention=attention, mlp=mlp, norm_eps=self.norm_eps, rms_norm=self.rms_norm, norm_bias=self.norm_bias
        )

    def build(self) -> Decoder:
        return Decoder(self)


class Decoder(nn.Module):
    """Embeddings → hidden states → logits."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_dim)
        learned = isinstance(config.positions, (LearnedPositionsConfig, SinusoidPositionsConfig))
        self.positions = (
            cast(LearnedPositionsConfig, config.positions).build(config.context_length, config.hidden_dim)
            if learned
            else None
        )
        self.blocks = nn.ModuleList(config.layer(index) for index in range(config.num_layers))
        self.norm = config.block().norm()
        self.lm_head: nn.Module | None = None  # None = the input embedding
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.hidden_dim, config.vocab_size, bias=config.head_bias)
        self._frequencies: dict[int, torch.Tensor] = {}

    def init_weights(self) -> None:
        """Draw embeddings as the reference does."""
        nn.init.normal_(self.embed_tokens.weight, std=0.02)

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for `batch` sequences of up to `capacity` positions."""
        weight, (heads, key_dim, value_dim) = self.embed_tokens.weight, self.config.cache_shape
        return Cache(
            self.config.num_layers,
            batch,
            heads,
            capacity,
            key_dim,
            value_dim=value_dim,
            dtype=weight.dtype,
            device=weight.device,
        )

    def new_slots(self) -> SlotCache:
        """An empty cache for sequences that come and go by themselves."""
        weight, (heads, key_dim, value_dim) = self.embed_tokens.weight, self.config.cache_shape
        return SlotCache(
            self.config.num_layers, heads, key_dim, value_dim=value_dim, dtype=weight.dtype, device=weight.device
        )

    @property
    def joins(self) -> bool:
        """Whether replies and a part of a prompt can be read as one sequence, see `JointStep`."""
        shared = self.config.rotary is None or not self.config.rotary.varies
        return shared and not isinstance(self.config.positions, AlibiConfig) and all(map(_chooses, self.blocks))

    def forward(
        self,
        embeds: torch.Tensor,
        *,
        attend: torch.Tensor | AttentionMask | None = None,
        positions: torch.Tensor | None = None,
        cache: AnyCache | JointStep | None = None,
        route: torch.Tensor | None = None,
        before: Callable[[int, torch.Tensor], torch.Tensor] | None = None,
        keep: slice | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states of new tokens.

        Args:
            embeds: (B, T, D) input embeddings.
            attend: (B, S) bool over cached and new positions, True = a real token; None = no padding;
                a mask of its own (`packed_mask`) is taken as it is.
            positions: (B, T) or (1, T) positions, or (3, B, T) for M-RoPE; None = counted from the cache's length.
            cache: keys and values so far; T new ones are added.
            route: (B, T) bool, the tokens that take the visual weights of routed layers; None = none.
            before: (number of a layer, the states it would read) → the states it reads; None = they stay.
            keep: the positions whose states are wanted, a slice or one a row, (B,); None = all. Of a prompt it is the
                last, and the last layer's own products are made for it alone.

        Returns:
            (B, T or kept, D), normalised; `logits` turns them into scores.
        """
        length, past = embeds.shape[1], cache.length if cache is not None else 0
        if positions is None:
            positions = torch.arange(past, past + length, device=embeds.device)[None]
        rotary = None
        if self.config.rotary is not None:
            rotary = self._rotary(positions, embeds.dtype, cache)
        mask = attend
        if not isinstance(mask, AttentionMask):
            mask = attention_mask(mask, causal=True, queries=length, keys=past + length, device=embeds.device)
        if isinstance(self.config.positions, AlibiConfig):
            bias = self.config.positions.bias(self.config.num_heads, past + length, embeds.device, embeds.dtype)
            mask = biased(mask, bias)
        x = embeds if self.config.embed_scale == 1.0 else embeds * self.config.embed_scale
        if self.positions is not None:
            x = x + self.positions(positions, x.dtype)
        more: dict[str, Any] = {} if route is None else {"route": route}
        final = len(self.blocks) - 1
        for layer, block in enumerate(self.blocks):
            x = x if before is None else before(layer, x)
            if layer == final and keep is not None and length > 1 and _chooses(block):
                mask, rotary = mask.of_queries(keep, length), rotary and of_queries(rotary, keep)
                more, keep = {"keep": keep}, None
            x = block(x, mask=mask, rotary=rotary, cache=cache, layer=layer, **more)
        if cache is not None:
            cache.advance(length)
        return self.norm(kept(x, keep))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, D) hidden states → (…, V) logits."""
        return F.linear(hidden, self.embed_tokens.weight) if self.lm_head is None else self.lm_head(hidden)

    def _rotary(self, positions: torch.Tensor, dtype: torch.dtype, cache: AnyCache | JointStep | None) -> Rotary:
        rotary = self.config.rotary
        assert rotary is not None
        if isinstance(rotary, XPosConfig):
            fading = rotary.fading(self.config.rotary_width).to(positions.device)
            return xpos_tables(positions, self._rotary_frequencies(positions.device, 0), fading, dtype)
        keys = [0]
        if rotary.varies:
            lengths = (positions if positions.dim() == 2 else positions.amax(0)).amax(1) + 1  # (B,)
            if cache is not None:  # its keys have turned already
                lengths = cache.prompts = lengths if cache.prompts is None else cache.prompts
            keys = [rotary.key(length) for length in lengths.tolist()]
        frequencies = [self._rotary_frequencies(positions.device, key) for key in keys]
        turns = frequencies[0] if len(set(keys)) == 1 else torch.stack(frequencies)
        if positions.dim() == 2:
            tables = rotary_tables(positions, turns, dtype, rotary.magnitude)
            if not isinstance(rotary, LogRotaryConfig):
                return tables
            growth = rotary.growth(positions)[:, None, :, None].to(dtype)
            return (*(table * growth for table in tables), *tables)
        assert isinstance(rotary, MultimodalRotaryConfig), "three positions a token need M-RoPE"
        return multimodal_tables(positions, turns, rotary.sections, dtype, rotary.magnitude)

    def _rotary_frequencies(self, device: torch.device, key: int) -> torch.Tensor:
        # derived from the config, not a buffer: a module built on the meta device must still rotate
        rotary, width = self.config.rotary, self.config.rotary_width
        assert rotary is not None
        found = self._frequencies.get(key)
        if found is None or found.device != device:
            if len(self._frequencies) >= MOST_FREQUENCIES:
                self._frequencies.clear()
            found = self._frequencies[key] = rotary.frequencies(width, key).to(device)
        return found


def _chooses(block: nn.Module) -> bool:
    """Whether a layer can compute some of its positions alone."""
    return type(block) is Block and type(block.attn) is Attention
