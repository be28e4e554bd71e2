"""Attention pooling with the mean as the query, and a gated projector: Molmo's connector (Deitke et al. 2024, §2).

Each window of `pool`² patches attends to itself with its own mean for a query; a gated MLP brings the result to the
language model's width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import nn

from chiasm.nn.activations import activation
from chiasm.nn.attention import AttentionConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanQueryPoolConfig:
    """down(act(gate(p)) · up(p)), p = attention(mean, window).

    Attributes:
        input_dim: D of one patch, all layers that are read side by side.
        pooled_dim: width after pooling; the tower's own.
        num_heads: heads of the pooling.
        hidden_dim: width inside the projector.
        output_dim: width of the language model.
        pool: patches along one side of a window.
        act: activation of the gate.
    """

    input_dim: int
    pooled_dim: int
    num_heads: int
    hidden_dim: int
    output_dim: int
    pool: int = 2
    act: str = "silu"

    def build(self) -> MeanQueryPool:
        return MeanQueryPool(self)


class MeanQueryPool(nn.Module):
    """Square grids of patches → smaller grids of visual tokens."""

    def __init__(self, config: MeanQueryPoolConfig) -> None:
        super().__init__()
        self.pool = config.pool
        self.attn = AttentionConfig(
            hidden_dim=config.input_dim,
            num_heads=config.num_heads,
            head_dim=config.pooled_dim // config.num_heads,
            output_dim=config.pooled_dim,
        ).build()
        self.gate_proj = nn.Linear(config.pooled_dim, config.hidden_dim, bias=False)
        self.up_proj = nn.Linear(config.pooled_dim, config.hidden_dim, bias=False)
        self.down_proj = nn.Linear(config.hidden_dim, config.output_dim, bias=False)
        self.act = activation(config.act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, P, D), a square grid in raster order → (B, P / pool², output_dim)."""
        side = round(x.shape[1] ** 0.5) // self.pool
        windows = rearrange(x, "b (r i c j) d -> (b r c) (i j) d", r=side, c=side, i=self.pool, j=self.pool)
        pooled = self.attn(windows.mean(1, keepdim=True), windows).view(len(x), side * side, -1)
        return self.down_proj(self.act(self.gate_proj(pooled)) * self.up_proj(pooled))
