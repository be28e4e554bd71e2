"""A ViT over the map of a convolutional network (Dosovitskiy et al. 2021, §3.1, "Hybrid Architecture").

The network is the trunk: it comes with weights and stays frozen, so that what it says of a picture is computed once.
What learns is the projection of its standardised cells, a class token, and the blocks. Departure: the trunk's cells
carry fixed positions already (`vision.cells`), so none are learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chiasm.nn.attention import AttentionConfig
from chiasm.nn.blocks import Block, BlockConfig
from chiasm.nn.mlp import MLPConfig
from chiasm.vision.cells import CellTower, CellTowerConfig, Standardised
from chiasm.vision.efficientnet import CELL


@dataclass(frozen=True, kw_only=True, slots=True)
class HybridConfig:
    """A hybrid ViT.

    Attributes:
        trunk: the network whose cells stand in for patches.
        hidden_dim, num_layers, num_heads, mlp_dim: D, L, H, M of the blocks.
        norm_eps: ε of every LayerNorm.
    """

    trunk: CellTowerConfig
    hidden_dim: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    norm_eps: float = 1e-6

    @property
    def image_size(self) -> int:
        """Pixels of a side."""
        return self.trunk.image_size

    @property
    def patch_size(self) -> int:
        """Pixels of a cell's side."""
        return CELL

    @property
    def grid(self) -> int:
        """Cells of a side."""
        return self.trunk.grid

    def block(self) -> BlockConfig:
        return BlockConfig(
            attention=AttentionConfig(hidden_dim=self.hidden_dim, num_heads=self.num_heads),
            mlp=MLPConfig(input_dim=self.hidden_dim, hidden_dim=self.mlp_dim, act="gelu"),
            norm_eps=self.norm_eps,
        )

    def build(self) -> Hybrid:
        return Hybrid(self)


class Hybrid(nn.Module):
    """Pixels → cells → states, as a ViT gives them."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_dim
        self.trunk: CellTower = config.trunk.build()
        self.standard = Standardised(config.trunk)
        self.proj = nn.Linear(config.trunk.hidden_dim, width)
        self.cls_token = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(config.block()) for _ in range(config.num_layers))
        self.norm_post = nn.LayerNorm(width, eps=config.norm_eps)

    def init_weights(self) -> None:
        """Draw the class token as `ViT` does."""
        nn.init.normal_(self.cls_token, std=self.config.hidden_dim**-0.5)

    def refine(self, cells: torch.Tensor) -> torch.Tensor:
        """(B, P, trunk's D) cells → (B, 1 + P, D) states, the class token first."""
        x = torch.cat((self.cls_token.expand(len(cells), 1, -1), self.proj(self.standard(cells))), 1)
        for block in self.blocks:
            x = block(x)
        return self.norm_post(x)

    def states(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) pixels → (B, 1 + P, D) states."""
        return self.refine(self.trunk.features(pixels))
