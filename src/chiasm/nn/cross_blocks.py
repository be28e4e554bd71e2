"""Pre-norm layers that also attend to a second stream.

`CrossBlock`: self-attention, cross-attention, MLP (Vaswani et al. 2017, fig. 1, right, pre-normalised as in T5).
`GatedCrossBlock`: cross-attention and MLP, each behind tanh(α), that stand before a frozen layer of a language model
(Alayrac et al. 2022, "Flamingo", §2.2, fig. 4): with α = 0 they add exactly nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chiasm.nn.attention import AttentionConfig
from chiasm.nn.blocks import BlockConfig
from chiasm.nn.cache import Cache
from chiasm.nn.fusion_blocks import Context
from chiasm.nn.masks import EVERYTHING, AttentionMask


class CrossBlock(nn.Module):
    """Self-attention, cross-attention and MLP, each normalised before.

    Args:
        config: of self-attention, MLP and norms.
        cross: of cross-attention.
    """

    def __init__(self, config: BlockConfig, cross: AttentionConfig) -> None:
        super().__init__()
        self.norm1 = config.norm()
        self.attn = config.attention.build()
        self.cross_norm = config.norm()
        self.cross_attn = cross.build()
        self.norm2 = config.norm()
        self.mlp = config.mlp.build()

    def forward(
        self,
        x: torch.Tensor,
        *,
        context: Context,
        mask: AttentionMask = EVERYTHING,
        cache: Cache | None = None,
        layer: int = 0,
    ) -> torch.Tensor:
        """One layer.

        Args:
            x: (B, T, D).
            context: the second stream.
            mask, cache, layer: see `Attention.forward`.

        Returns:
            (B, T, D).
        """
        x = x + self.attn(self.norm1(x), mask=mask, cache=cache, layer=layer)
        x = x + self.cross_attn(self.cross_norm(x), context.states, mask=context.mask, projected=context.of(layer))
        return x + self.mlp(self.norm2(x))


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedCrossBlockConfig:
    """A gated layer.

    Attributes:
        block: attention (with the pictures' width as its context), MLP and norms.
        gate_dim: numbers in each gate: 1, or D for one a feature.
    """

    block: BlockConfig
    gate_dim: int = 1

    def build(self) -> GatedCrossBlock:
        return GatedCrossBlock(self)


class GatedCrossBlock(nn.Module):
    """x + tanh(α)·attention(norm(x), pictures), then x + tanh(β)·mlp(norm(x))."""

    def __init__(self, config: GatedCrossBlockConfig) -> None:
        super().__init__()
        self.norm1 = config.block.norm()
        self.cross_attn = config.block.attention.build()
        self.attn_gate = nn.Parameter(torch.zeros(config.gate_dim))
        self.norm2 = config.block.norm()
        self.mlp = config.block.mlp.build()
        self.mlp_gate = nn.Parameter(torch.zeros(config.gate_dim))

    def forward(
        self,
        x: torch.Tensor,
        *,
        projected: tuple[torch.Tensor, torch.Tensor] | None,
        mask: AttentionMask = EVERYTHING,
        sees: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One gated layer.

        Args:
            x: (B, T, D).
            projected: keys and values of the pictures, from this layer's `cross_attn.project`; None = there are none.
            mask: which of them each token sees.
            sees: (B, T, 1) bool, False where a token sees no picture at all: attention adds 0 there; None = all see.

        Returns:
            (B, T, D).
        """
        if projected is not None:
            seen = self.cross_attn(self.norm1(x), mask=mask, projected=projected)
            if sees is not None:
                seen = seen.masked_fill(~sees, 0.0)
            x = x + self.attn_gate.tanh() * seen
        return x + self.mlp_gate.tanh() * self.mlp(self.norm2(x))
