"""Pixel shuffle (Shi et al. 2016, read backwards) and an MLP: InternVL's connector (Chen et al. 2024, §3.1).

`scale`² neighbouring patches become one vector; a norm and two layers bring it to the language model's width. The
first release's shuffle leaves rows and columns swapped (``ps_version v1``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import nn

from chiasm.nn.activations import activation


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelShuffleConfig:
    """fc2(act(fc1(norm(shuffle(x))))).

    Attributes:
        input_dim: D of one patch.
        output_dim: width of the language model.
        scale: patches along one side of a visual token.
        swapped: tokens come column by column (InternVL-Chat-V1.5 before its fix).
        act: activation name.
    """

    input_dim: int
    output_dim: int
    scale: int = 2
    swapped: bool = False
    act: str = "gelu"

    def build(self) -> PixelShuffle:
        return PixelShuffle(self)


class PixelShuffle(nn.Module):
    """Square grids of patches → smaller grids of visual tokens."""

    def __init__(self, config: PixelShuffleConfig) -> None:
        super().__init__()
        self.scale, self.swapped = config.scale, config.swapped
        joined = config.input_dim * config.scale**2
        self.norm = nn.LayerNorm(joined)
        self.fc1 = nn.Linear(joined, config.output_dim)
        self.fc2 = nn.Linear(config.output_dim, config.output_dim)
        self.act = activation(config.act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, P, D), a square grid in raster order → (B, P / scale², output_dim)."""
        side = round(x.shape[1] ** 0.5) // self.scale
        order = "b (c r) (i j d)" if self.swapped else "b (r c) (i j d)"
        x = rearrange(x, f"b (r i c j) d -> {order}", r=side, c=side, i=self.scale, j=self.scale)
        return self.fc2(self.act(self.fc1(self.norm(x))))
