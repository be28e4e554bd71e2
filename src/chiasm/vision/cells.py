"""A convolutional classifier as a tower of patches: an EfficientNet's cells, in place of a ViT's final states.

Features are normalised as a ViT's last norm would, and carry fixed positions, because a convolution says what is in a
cell and not which cell it is. Large pictures are seen whole or in tiles, and neighbouring cells can be one feature, so
that a number of visual tokens is a choice apart from the number of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from chiasm.nn.positions import sincos_grid
from chiasm.vision.efficientnet import CELL, EfficientNetConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class CellTowerConfig:
    """A tower of cells.

    Attributes:
        network: the classifier, without its head; its `image_size` is a multiple of `CELL`.
        tile: pixels of a tile's side, which is seen by itself; None = the picture is seen whole.
        merge: cells along one side of a feature; they stand side by side in it.
    """

    network: EfficientNetConfig
    tile: int | None = None
    merge: int = 1

    @property
    def image_size(self) -> int:
        """Pixels of a side."""
        return self.network.image_size

    @property
    def grid(self) -> int:
        """Features of a side."""
        return self.network.image_size // (CELL * self.merge)

    @property
    def hidden_dim(self) -> int:
        """D of a feature."""
        return self.network.cell_dim * self.merge**2

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


class Standardised(nn.BatchNorm1d):
    """Cells with the mean and deviation that each channel has over pictures and places taken out.

    What all pictures share is most of a cell (four fifths of the squared length of a picture's mean, over scenes), and
    as long as it is there all pictures look alike to a cosine. The statistics run along in training.
    """

    def __init__(self, config: CellTowerConfig) -> None:
        super().__init__(config.hidden_dim, affine=False)

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        """(B, P, D) → (B, P, D)."""
        return super().forward(cells.flatten(0, 1)).unflatten(0, cells.shape[:2])


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
        """(B, 3, h, w) pixels → (B, P, D): each feature normalised to mean 0 and variance 1, its position added."""
        side, merge = self.config.tile or self.config.image_size, self.config.merge
        rows, columns = pixels.shape[-2] // side, pixels.shape[-1] // side
        tiles = rearrange(pixels, "b c (y h) (x w) -> (b y x) c h w", y=rows, x=columns)
        grid = rearrange(
            self.network.cells(tiles), "(b y x) (p q) d -> b (y p) (x q) d", y=rows, x=columns, p=side // CELL
        )
        cells = rearrange(grid, "b (y m) (x n) d -> b (y x) (m n d)", m=merge, n=merge)
        cells = F.layer_norm(cells, (self.config.hidden_dim,))
        places = sincos_grid(round(cells.shape[1] ** 0.5), self.config.hidden_dim)
        return cells + places.to(cells)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) pixels → (B, D), the mean of the cells."""
        return self.features(pixels).mean(1)
