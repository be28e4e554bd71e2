"""BERT (Devlin et al. 2019): learned positions, post-norm blocks; and what later systems made of it.

Sentence encoder: the mean over real tokens (Reimers & Gurevych 2019, §3), as the MiniLM sentence encoders are used.
Fusion encoder: some or all layers also attend to a picture (Li et al. 2021, "ALBEF", §3.1: the upper half; Li et al.
2022, "BLIP", §3.1: all). Decoder: the same layers read causally, with a cache; in BLIP's mixture of encoder and
decoder both modes share everything but self-attention (`twin`).

Departure: no dropout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.nn.activations import activation
from chiasm.nn.attention import AttentionConfig
from chiasm.nn.blocks import BlockConfig
from chiasm.nn.cache import Cache
from chiasm.nn.fusion_blocks import Context, FusionBlock, context_mask
from chiasm.nn.masks import attention_mask, real_tokens
from chiasm.nn.mlp import MLPConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossConfig:
    """Cross-attention to a second stream.

    Attributes:
        context_dim: width of that stream.
        first_layer: the first layer that has it; those below read text alone.
    """

    context_dim: int
    first_layer: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class BertConfig:
    """An encoder, or a decoder.

    Attributes:
        vocab_size, context_length, num_types: V, most tokens, segment kinds (0 = none are told apart).
        hidden_dim, num_layers, num_heads, mlp_dim: D, L, H, M.
        act: activation name.
        norm_eps: ε of every LayerNorm.
        pooler: whether the checkpoint carries BERT's own [CLS] pooler (not used for sentences).
        cross: cross-attention; None = text alone.
        twin: causal reading has a self-attention of its own, and shares the rest.
    """

    vocab_size: int
    context_length: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    num_types: int = 2
    act: str = "gelu"
    norm_eps: float = 1e-12
    pooler: bool = False
    cross: CrossConfig | None = None
    twin: bool = False

    def block(self) -> BlockConfig:
        return BlockConfig(
            attention=AttentionConfig(hidden_dim=self.hidden_dim, num_heads=self.num_heads),
            mlp=MLPConfig(input_dim=self.hidden_dim, hidden_dim=self.mlp_dim, act=self.act),
            norm_eps=self.norm_eps,
        )

    def cross_attention(self, layer: int) -> AttentionConfig | None:
        """The cross-attention of one layer."""
        if self.cross is None or layer < self.cross.first_layer:
            return None
        return AttentionConfig(hidden_dim=self.hidden_dim, num_heads=self.num_heads, context_dim=self.cross.context_dim)

    def build(self) -> Bert:
        return Bert(self)


class Bert(nn.Module):
    """Token ids → states of all tokens, or one mean-pooled vector a sentence."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_dim
        self.token_embed = nn.Embedding(config.vocab_size, width)
        self.pos_embed = nn.Parameter(torch.zeros(config.context_length, width))
        self.type_embed = nn.Parameter(torch.zeros(config.num_types, width)) if config.num_types else None
        self.embed_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.blocks = nn.ModuleList(
            FusionBlock(config.block(), config.cross_attention(layer), twin=config.twin)
            for layer in range(config.num_layers)
        )
        self.pooler = nn.Linear(width, width) if config.pooler else None

    def init_weights(self) -> None:
        """Draw matrices as the reference does: normal, deviation 0.02, no bias."""
        for table in (self.token_embed.weight, self.pos_embed, self.type_embed):
            if table is not None:
                nn.init.normal_(table, std=0.02)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def embed(self, ids: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """Input of the first layer.

        Args:
            ids: (B, T).
            positions: (B, T) or (1, T); None = counted from 0.

        Returns:
            (B, T, D).
        """
        places = self.pos_embed[: ids.shape[1]] if positions is None else self.pos_embed[positions]
        x = self.token_embed(ids)
        if self.type_embed is not None:
            x = x + self.type_embed[0]
        return self.embed_norm(x + places)

    def encode(
        self,
        x: torch.Tensor,
        attend: torch.Tensor | None = None,
        *,
        context: Context | None = None,
        causal: bool = False,
        cache: Cache | None = None,
        layers: range | None = None,
        record: dict[int, list[torch.Tensor]] | None = None,
    ) -> torch.Tensor:
        """Run layers.

        Args:
            x: (B, T, D) from `embed`, or from a lower layer.
            attend: (B, S) bool over cached and new tokens, True = a real token; None = no padding.
            context: the second stream; None = no cross-attention.
            causal: a token sees itself and what stands before it.
            cache: keys and values so far; T new ones are added.
            layers: which layers; None = all.
            record: layer → list that gets its cross-attention's weights.

        Returns:
            (B, T, D).
        """
        length, past = x.shape[1], 0 if cache is None else cache.length
        mask = attention_mask(real_tokens(attend), causal=causal, queries=length, keys=past + length, device=x.device)
        for layer in layers or range(len(self.blocks)):
            kept = None if record is None else record.get(layer)
            x = self.blocks[layer](x, mask=mask, context=context, causal=causal, cache=cache, layer=layer, record=kept)
        if cache is not None:
            cache.advance(length)
        return x

    def states(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """States of all tokens, text alone.

        Args:
            ids: (B, T).
            attend: (B, T) bool, True = a real token; None = no padding.

        Returns:
            (B, T, D).
        """
        return self.encode(self.embed(ids), attend)

    def project(self, states: torch.Tensor, attend: torch.Tensor | None = None) -> Context:
        """A context whose keys and values are computed once: (B, S, context_dim) and its (B, S) mask."""
        layers = [block for block in self.blocks if isinstance(block, FusionBlock)]
        pairs = [None if layer.cross_attn is None else layer.cross_attn.project(states) for layer in layers]
        return Context(None, context_mask(attend), pairs)

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for B sequences of at most `capacity` positions."""
        config, table = self.config, self.token_embed.weight
        width = config.hidden_dim // config.num_heads
        return Cache(
            config.num_layers, batch, config.num_heads, capacity, width, dtype=table.dtype, device=table.device
        )

    def forward(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """One vector a sentence: the mean over its real tokens.

        Args:
            ids, attend: see `states`.

        Returns:
            (B, D).
        """
        x = self.states(ids, attend)
        if attend is None:
            return x.mean(1)
        weight = attend[..., None].to(x.dtype)
        return (x * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


class WordShape(Protocol):
    """What a word head needs to know of its tower."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_dim(self) -> int: ...
    @property
    def act(self) -> str: ...
    @property
    def norm_eps(self) -> float: ...


class BertHead(nn.Module):
    """BERT's word prediction: a transform, a norm, then the input embeddings as output layer (Devlin 2019, §3.1).

    Serves masked words and the next word alike.
    """

    def __init__(self, config: WordShape) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_dim, config.hidden_dim)
        self.norm = nn.LayerNorm(config.hidden_dim, eps=config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.act = activation(config.act)

    def forward(self, states: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """(…, D) states and the (V, D) embedding table → (…, V) logits."""
        return F.linear(self.norm(self.act(self.dense(states))), table, self.bias)
