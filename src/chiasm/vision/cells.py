"""A convolutional classifier as a tower of patches: an EfficientNet's cells, in place of a ViT's final states.

Features are normalised as a ViT's last norm would, and carry fixed positions, because a convolution says what is in a
cell and not which cell it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.nn.positions import sincos_grid
from chiasm.vision.efficientnet import CELL, EfficientNetConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class CellTowerConfig:
    """A tower of cells.

    Attributes:
        network: the classifier, without its head; its `image_size` is a multiple of `CELL`.
    """

    network: EfficientNetConfig

    @property
    def image_size(self) -> int:
        """Pixels of a side."""
        return self.network.image_size

    @property
    def grid(self) -> int:
        """Cells of a side."""
        return self.network.image_size // CELL

    @property
    def hidden_dim(self) -> int:
        """D of a cell's features."""
        return self.network.cell_dim

    @property
    def output_dim(self) -> int:
        """Width of a picture's vector, the mean of its cells."""
        return self.hidden_dim

    @property
    def class_token(self) -> bool:
        """There is none."""
        return False

    @property
    def attention_pool(self) -> bool:
        """Nor this."""
        return False

    def build(self) -> CellTower:
        return CellTower(self)


class CellTower(nn.Module):
    """Pixels → features of every cell."""

    def __init__(self, config: CellTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.network = config.network.build()
        self.norm_post = nn.Identity()

    @property
    def trunk(self) -> CellTower:
        """Itself: all of it may be frozen and its features stored, as the trunk of a hybrid tower."""
        return self

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) pixels → (B, P, D): each cell normalised to mean 0 and variance 1, with its position added."""
        cells = F.layer_norm(self.network.cells(pixels), (self.config.hidden_dim,))
        places = sincos_grid(round(cells.shape[1] ** 0.5), self.config.hidden_dim)
        return cells + places.to(cells)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) pixels → (B, D), the mean of the cells."""
        return self.features(pixels).mean(1)
