"""Q-Former: learned queries read a picture by cross-attention inside BERT (Li et al. 2023, "BLIP-2", §3.1, fig. 2).

Queries and a text may stand in one sequence. They share self-attention, each has an MLP of its own, and only the
queries attend to the picture, in every `cross_every`-th layer. What may see what is the mask's business
(`nn.masks.query_text_mask`): contrast keeps the two apart, matching joins them, captioning lets the text look at the
queries and back. InstructBLIP (Dai et al. 2023, §2.3) puts the instruction there, and only the queries go on.

Departure: no dropout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chiasm.nn.attention import AttentionConfig
from chiasm.nn.masks import EVERYTHING, AttentionMask, query_text_mask, real_tokens
from chiasm.nn.mlp import MLPConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class QFormerTextConfig:
    """The text side.

    Attributes:
        vocab_size, context_length: V and most tokens.
    """

    vocab_size: int
    context_length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class QFormerConfig:
    """A Q-Former.

    Attributes:
        input_dim: width of the picture's features.
        output_dim: width that the queries are projected to; None = they stay as they are.
        num_queries: visual tokens a crop.
        hidden_dim, num_layers, num_heads, mlp_dim: D, L, H, M.
        cross_every: layers 0, cross_every, 2·cross_every, … look at the picture.
        act, norm_eps: of MLPs and norms.
        text: the text side; None = queries alone.
    """

    input_dim: int
    output_dim: int | None
    num_queries: int = 32
    hidden_dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    cross_every: int = 2
    act: str = "gelu"
    norm_eps: float = 1e-12
    text: QFormerTextConfig | None = None

    def visual_tokens(self, patches: int) -> int:
        """Tokens that `patches` features become."""
        return self.num_queries

    def build(self) -> QFormer:
        return QFormer(self)


class QFormerBlock(nn.Module):
    """Post-norm layer: shared self-attention, the queries' look at the picture, an MLP for each side."""

    def __init__(self, config: QFormerConfig, *, crosses: bool) -> None:
        super().__init__()
        width = config.hidden_dim
        attention = AttentionConfig(hidden_dim=width, num_heads=config.num_heads)
        cross = AttentionConfig(hidden_dim=width, num_heads=config.num_heads, context_dim=config.input_dim)
        mlp = MLPConfig(input_dim=width, hidden_dim=config.mlp_dim, act=config.act)

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(width, eps=config.norm_eps)

        self.attn, self.norm1 = attention.build(), norm()
        self.cross_attn = cross.build() if crosses else None
        self.cross_norm = norm() if crosses else None
        self.mlp, self.norm2 = mlp.build(), norm()
        self.text_mlp = mlp.build() if config.text is not None else None
        self.text_norm = norm() if config.text is not None else None

    def forward(
        self, x: torch.Tensor, queries: int, picture: torch.Tensor | None, mask: AttentionMask = EVERYTHING
    ) -> torch.Tensor:
        """One layer.

        Args:
            x: (B, Q + T, D), queries first.
            queries: Q, 0 for text alone.
            picture: (B, P, input_dim) features; needed where there are queries.
            mask: of self-attention.

        Returns:
            (B, Q + T, D).
        """
        x = self.norm1(x + self.attn(x, mask=mask))
        sides = []
        if queries:
            asked = x[:, :queries]
            if self.cross_attn is not None and self.cross_norm is not None:
                asked = self.cross_norm(asked + self.cross_attn(asked, picture))
            sides.append(self.norm2(asked + self.mlp(asked)))
        if x.shape[1] > queries:
            assert self.text_mlp is not None and self.text_norm is not None, "this Q-Former reads no text"
            text = x[:, queries:]
            sides.append(self.text_norm(text + self.text_mlp(text)))
        return torch.cat(sides, 1)


class QFormer(nn.Module):
    """Features of a picture, with or without a text, → the queries' states, projected."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_dim
        self.queries = nn.Parameter(torch.zeros(config.num_queries, width))
        if config.text is not None:
            self.token_embed: nn.Embedding | None = nn.Embedding(config.text.vocab_size, width)
            self.pos_embed: nn.Parameter | None = nn.Parameter(torch.zeros(config.text.context_length, width))
        else:
            self.token_embed, self.pos_embed = None, None
        self.embed_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.blocks = nn.ModuleList(
            QFormerBlock(config, crosses=layer % config.cross_every == 0) for layer in range(config.num_layers)
        )
        self.proj = nn.Linear(width, config.output_dim) if config.output_dim else None

    def init_weights(self) -> None:
        """Draw everything as BERT's reference does: normal, deviation 0.02."""
        nn.init.normal_(self.queries, std=0.02)
        if self.token_embed is not None and self.pos_embed is not None:
            nn.init.normal_(self.token_embed.weight, std=0.02)
            nn.init.normal_(self.pos_embed, std=0.02)
        for part in self.blocks.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def states(
        self,
        picture: torch.Tensor | None,
        ids: torch.Tensor | None = None,
        attend: torch.Tensor | None = None,
        *,
        kind: str = "joint",
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Final states of both sides.

        Args:
            picture: (B, P, input_dim) features; None = the text alone, without queries.
            ids: (B, T) the text; None = the queries alone.
            attend: (B, T) bool, True = a real token; None = no padding.
            kind: ``joint``, ``separate`` or ``causal``, see `nn.masks.query_text_mask`.

        Returns:
            (B, Q, D) and (B, T, D); either may be of length 0.
        """
        parts, queries = [], 0
        if picture is not None:
            queries = len(self.queries)
            parts.append(self.queries.expand(len(picture), -1, -1))
        if ids is not None:
            assert self.token_embed is not None and self.pos_embed is not None, "this Q-Former reads no text"
            parts.append(self.token_embed(ids) + self.pos_embed[: ids.shape[1]])
        x = self.embed_norm(torch.cat(parts, 1))
        mask = EVERYTHING
        if ids is not None:
            real = real_tokens(attend)
            if real is not None or kind != "joint":
                real = torch.ones_like(ids, dtype=torch.bool) if real is None else real
                mask = query_text_mask(queries, real, kind=kind)
        for block in self.blocks:
            x = block(x, queries, picture, mask)
        return x[:, :queries], x[:, queries:]

    def forward(
        self, picture: torch.Tensor, ids: torch.Tensor | None = None, attend: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, P, input_dim) features, and an instruction (B, T) where there is one → (B, Q, output_dim)."""
        queries, _ = self.states(picture, ids, attend)
        return queries if self.proj is None else self.proj(queries)
