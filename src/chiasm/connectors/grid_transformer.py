"""A small transformer over the cells of a picture, so that a cell knows its neighbours before it becomes a token.

    h = W₁ LN(x) + p;   h ← blocks(h);   token = W₂ LN(h)

x are a tower's features of one cell, p is a learned position, the blocks are self-attention over all cells. A causal
language model lets a token see only what stands before it; where a thing ends, the cells around it must be seen, which
is why locality-minded connectors mix cells first (Cha et al. 2024, "Honeybee", §3.2, who do it by convolutions).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chiasm.nn.attention import AttentionConfig
from chiasm.nn.blocks import BlockConfig
from chiasm.nn.mlp import MLPConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class GridTransformerConfig:
    """A transformer over cells.

    Attributes:
        input_dim: width of a cell's features.
        output_dim: width of the language model.
        num_positions: P, cells of a crop.
        hidden_dim, num_layers, num_heads: of the blocks.
    """

    input_dim: int
    output_dim: int
    num_positions: int
    hidden_dim: int = 256
    num_layers: int = 2
    num_heads: int = 4

    def visual_tokens(self, patches: int) -> int:
        """As many as there are cells."""
        assert patches == self.num_positions, f"{patches} cells, {self.num_positions} positions"
        return patches

    def build(self) -> GridTransformer:
        return GridTransformer(self)


class GridTransformer(nn.Module):
    """Cells → as many tokens."""

    def __init__(self, config: GridTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_dim
        block = BlockConfig(
            attention=AttentionConfig(hidden_dim=width, num_heads=config.num_heads),
            mlp=MLPConfig(input_dim=width, hidden_dim=4 * width),
            norm_eps=1e-5,
        )
        self.norm_in = nn.LayerNorm(config.input_dim)
        self.proj_in = nn.Linear(config.input_dim, width)
        self.positions = nn.Parameter(0.02 * torch.randn(config.num_positions, width))
        self.blocks = nn.ModuleList(block.build() for _ in range(config.num_layers))
        self.norm_out = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, config.output_dim)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, P, input_dim) features → (B, P, output_dim) tokens."""
        x = self.proj_in(self.norm_in(features)) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.proj_out(self.norm_out(x))
