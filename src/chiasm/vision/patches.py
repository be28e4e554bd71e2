"""Reading features off a tower for a language model: which layer of a ViT, or the cells of a convolutional pyramid.

A reading fits one kind of tower; a family's configuration puts the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from chiasm.vision.efficientnet import CELL


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchSelection:
    """What LLaVA and its kin read (Liu et al. 2023, §4.1: the layer before the last).

    Attributes:
        layer: index into [embeddings, block 1, …, block L]; −2 is the last block but one. Several: their features side
            by side.
        keep_class_token: read the class token too ("full" selection in published configs).
    """

    layer: int | tuple[int, ...] = -2
    keep_class_token: bool = False

    @property
    def layers(self) -> tuple[int, ...]:
        """Every layer that is read."""
        return (self.layer,) if isinstance(self.layer, int) else self.layer

    def width(self, tower: Any) -> int:
        """Features of one patch."""
        return tower.hidden_dim * len(self.layers)

    def extra(self, tower: Any) -> int:
        """Features of one crop beside its patches."""
        return int(tower.class_token and self.keep_class_token)

    def count(self, tower: Any) -> int:
        """Features of one crop."""
        return tower.grid**2 + self.extra(tower)

    def unread(self, tower: Any) -> tuple[str, ...]:
        """What of the tower takes no part: names begin so."""
        depth = max(layer % (tower.num_layers + 1) for layer in self.layers)
        beyond = range(depth, tower.num_layers)
        return ("norm_post.", *(f"blocks.{index}." for index in beyond))

    def read(self, vision: Any, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) pixels → (B, P, width) features, not normalised."""
        features = torch.cat(vision.features_of(pixels, self.layers), -1)
        return features[:, 1:] if vision.config.class_token and not self.keep_class_token else features


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalStates:
    """The last layer's states, normalised.

    Attributes:
        keep_class_token: whether the class token's state stays first.
    """

    keep_class_token: bool = True

    def count(self, tower: Any) -> int:
        """Features of one crop."""
        return tower.grid**2 + (tower.class_token and self.keep_class_token)

    def unread(self, tower: Any) -> tuple[str, ...]:
        """What of the tower takes no part: nothing."""
        return ()

    def read(self, vision: Any, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) pixels → (B, P, D) features."""
        states = vision.norm_post(vision.features(pixels))
        return states[:, 1:] if vision.config.class_token and not self.keep_class_token else states


@dataclass(frozen=True, kw_only=True, slots=True)
class PyramidCells:
    """The two coarsest scales of an EfficientNet, cell by cell."""

    def count(self, tower: Any) -> int:
        """Features of one crop."""
        return (tower.image_size // CELL) ** 2

    def unread(self, tower: Any) -> tuple[str, ...]:
        """What of the tower takes no part: names begin so."""
        return ("head.", "classifier.")

    def read(self, vision: Any, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) pixels → (B, P, cell_dim) features."""
        cells: torch.Tensor = vision.cells(pixels)
        return cells
