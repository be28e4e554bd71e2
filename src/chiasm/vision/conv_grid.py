"""A convolutional classifier as a tower for transformers: its mean, then every position of its last map.

What ALBEF, BLIP and their kin read of a ViT is a class token and a grid of patches; the mean of a convolutional map
stands in for the former. So any of them can stand on a small tower whose weights travel with a package.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chiasm.vision.efficientnet import EfficientNet, EfficientNetConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvGridConfig:
    """An EfficientNet read as a grid.

    Attributes:
        net: the classifier.
    """

    net: EfficientNetConfig

    @property
    def image_size(self) -> int:
        """Pixels of a side."""
        return self.net.image_size

    @property
    def patch_size(self) -> int:
        """Pixels of a position's side."""
        return 32

    @property
    def hidden_dim(self) -> int:
        """D, channels of the last map."""
        return self.net.output_dim

    @property
    def grid(self) -> int:
        """Rows and columns of the last map."""
        return self.net.grid

    def build(self) -> ConvGrid:
        return ConvGrid(self)


class ConvGrid(nn.Module):
    """Pixels → states, as a ViT gives them."""

    def __init__(self, config: ConvGridConfig) -> None:
        super().__init__()
        self.config = config
        self.net: EfficientNet = config.net.build()

    def states(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) → (B, 1 + P, D), the mean of the map first, then the map in reading order."""
        cells = self.net.features(pixels).flatten(2).transpose(1, 2)  # (B, P, D)
        return torch.cat((cells.mean(1, keepdim=True), cells), 1)
