"""CogVLM's adapter (Wang et al. 2023, §2.1): a matrix, a norm, a GELU and a gated MLP, between two learned marks.

CogVLM2 first brings each 2×2 patches together by a convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from chiasm.nn.mlp import GatedMLPConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class GLUAdapterConfig:
    """begin, gated(gelu(norm(linear(x)))), end.

    Attributes:
        input_dim: D of one patch.
        hidden_dim: width inside the gated MLP.
        output_dim: width of the language model.
        merge: patches along one side that a convolution brings together; 1 = none.
    """

    input_dim: int
    hidden_dim: int
    output_dim: int
    merge: int = 1

    def build(self) -> GLUAdapter:
        return GLUAdapter(self)


class GLUAdapter(nn.Module):
    """Square grids of patches → visual tokens between two marks."""

    def __init__(self, config: GLUAdapterConfig) -> None:
        super().__init__()
        width, merge = config.output_dim, config.merge
        self.merge = merge
        self.conv = nn.Conv2d(config.input_dim, config.input_dim, merge, merge) if merge > 1 else None
        self.linear = nn.Linear(config.input_dim, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.mlp = GatedMLPConfig(input_dim=width, hidden_dim=config.hidden_dim).build()
        self.begin, self.end = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))

    def init_weights(self) -> None:
        """The marks start at zero, as in the reference."""
        nn.init.zeros_(self.begin)
        nn.init.zeros_(self.end)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, P, D), a square grid in raster order → (B, P / merge² + 2, output_dim)."""
        if self.conv is not None:
            side = round(x.shape[1] ** 0.5)
            x = rearrange(x, "b (h w) d -> b d h w", h=side)
            x = rearrange(self.conv(x), "b d h w -> b (h w) d")
        x = self.mlp(F.gelu(self.norm(self.linear(x))))
        begin, end = (mark.to(x.dtype).expand(len(x), 1, -1) for mark in (self.begin, self.end))
        return torch.cat((begin, x, end), 1)
