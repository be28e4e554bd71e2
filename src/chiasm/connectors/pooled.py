"""A grid of features averaged to a smaller grid, each cell through one affine map (DeCo; Yao et al. 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class PooledConfig:
    """linear(mean of the features under each cell): the number of visual tokens is a choice, what learns is not.

    Attributes:
        input_dim: width of the features.
        output_dim: width of the language model.
        grid: cells along a side; they overlap where the features' side is no multiple of it.
    """

    input_dim: int
    output_dim: int
    grid: int

    def visual_tokens(self, patches: int) -> int:
        """Tokens that `patches` features become."""
        return self.grid**2

    def build(self) -> Pooled:
        return Pooled(self)


class Pooled(nn.Module):
    """Square grids of any size → `grid` × `grid` tokens."""

    def __init__(self, config: PooledConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.proj = nn.Linear(config.input_dim, config.output_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, P, input_dim), a square grid row by row, a class token before it left out → (B, grid², output_dim)."""
        side = math.isqrt(x.shape[1])
        cells = x[:, x.shape[1] - side**2 :].transpose(1, 2).unflatten(2, (side, side))  # (B, input_dim, side, side)
        return self.proj(F.adaptive_avg_pool2d(cells, self.grid).flatten(2).transpose(1, 2))
