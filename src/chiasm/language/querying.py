"""QLLaMA: a causal language model with learned queries that look at a picture (Chen et al. 2023, "InternVL", §3.2).

The queries stand before the text in one sequence and share its layers; in every `cross_every`-th layer, between
self-attention and MLP, they alone attend to the picture. What sees what is the mask's business, as in a Q-Former
(`connectors.qformer`); without a picture it is the plain decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chiasm.language.decoder import Decoder, DecoderConfig
from chiasm.nn.attention import AttentionConfig, Rotary
from chiasm.nn.blocks import Block, BlockConfig
from chiasm.nn.cache import Cache
from chiasm.nn.masks import AttentionMask, query_text_mask
from chiasm.nn.norms import RMSNorm


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryDecoderConfig(DecoderConfig):
    """A decoder with queries.

    Attributes:
        context_dim: width of the picture's features.
        num_queries: Q.
        cross_every: layers 0, cross_every, 2·cross_every, … look at the picture.
    """

    context_dim: int
    num_queries: int = 96
    cross_every: int = 2

    def layer(self, index: int) -> nn.Module:
        """The layer at `index`, with random weights."""
        block = self.block()
        if index % self.cross_every:
            return Block(block)
        cross = AttentionConfig(
            hidden_dim=self.hidden_dim,
            num_heads=self.num_heads,
            context_dim=self.context_dim,
            qkv_bias=False,
            out_bias=False,
        )
        return QueryBlock(block, cross)

    def build(self) -> QueryDecoder:
        return QueryDecoder(self)


class QueryBlock(Block):
    """Pre-norm layer whose first positions look at a picture between self-attention and MLP.

    Args:
        config: of self-attention, MLP and norms.
        cross: of the look; picture and queries pass an RMSNorm each before it.
    """

    def __init__(self, config: BlockConfig, cross: AttentionConfig) -> None:
        super().__init__(config)
        self.cross_norm = config.norm()
        self.context_norm = RMSNorm(cross.context_dim or cross.hidden_dim, eps=config.norm_eps)
        self.cross_attn = cross.build()

    def forward(  # type: ignore[override]
        self,
        x: torch.Tensor,
        *,
        mask: AttentionMask,
        rotary: Rotary | None = None,
        cache: Cache | None = None,
        layer: int = 0,
        picture: torch.Tensor | None = None,
        queries: int = 0,
    ) -> torch.Tensor:
        """One layer.

        Args:
            x: (B, Q + T, D), queries first.
            mask, rotary, cache, layer: see `Attention.forward`.
            picture: (B, P, context_dim); None = nobody looks.
            queries: Q.

        Returns:
            (B, Q + T, D).
        """
        x = x + self.attn(self.norm1(x), mask=mask, rotary=rotary, cache=cache, layer=layer)
        if picture is not None:
            asked = x[:, :queries]
            asked = asked + self.cross_attn(self.cross_norm(asked), self.context_norm(picture))
            x = torch.cat((asked, x[:, queries:]), 1)
        return x + self.mlp(self.norm2(x))


class QueryDecoder(Decoder):
    """Queries, with or without a text, and a picture → both sides' states; a text alone is read as by `Decoder`."""

    def __init__(self, config: QueryDecoderConfig) -> None:
        super().__init__(config)
        self.queries = nn.Parameter(torch.zeros(config.num_queries, config.hidden_dim))

    def init_weights(self) -> None:
        """Draw embeddings and queries as the reference does."""
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        nn.init.normal_(self.queries, std=0.02)

    def states(
        self,
        picture: torch.Tensor,
        ids: torch.Tensor | None = None,
        attend: torch.Tensor | None = None,
        *,
        kind: str = "joint",
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Final states of both sides.

        Args:
            picture: (B, P, context_dim) features.
            ids: (B, T) the text; None = the queries alone.
            attend: (B, T) bool, True = a real token; None = no padding.
            kind: ``joint`` or ``causal``, see `nn.masks.query_text_mask`.

        Returns:
            (B, Q, D) and (B, T, D), normalised; the latter may be of length 0.
        """
        count = len(self.queries)
        x = self.queries.expand(len(picture), -1, -1)
        mask = AttentionMask()
        if ids is not None:
            x = torch.cat((x, self.embed_tokens(ids)), 1)
            real = torch.ones_like(ids, dtype=torch.bool) if attend is None else attend
            mask = query_text_mask(count, real, kind=kind)
        rotary = self._rotary(torch.arange(x.shape[1], device=x.device)[None], x.dtype, None)
        for block in self.blocks:
            look = {"picture": picture, "queries": count} if isinstance(block, QueryBlock) else {}
            x = block(x, mask=mask, rotary=rotary, **look)
        x = self.norm(x)
        return x[:, :count], x[:, count:]
