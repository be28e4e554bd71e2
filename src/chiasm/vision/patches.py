"""Reading patch features off a ViT for a language model: which layer, and whether the class token comes along."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from chiasm.vision.vit import ViT


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchSelection:
    """What LLaVA and its kin read (Liu et al. 2023, §4.1: the layer before the last).

    Attributes:
        layer: index into [embeddings, block 1, …, block L]; −2 is the last block but one.
        keep_class_token: read the class token too ("full" selection in published configs).
    """

    layer: int = -2
    keep_class_token: bool = False

    def read(self, vision: ViT, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) pixels → (B, P, D) features, not normalised."""
        features = vision.features(pixels, self.layer)
        return features[:, 1:] if vision.config.class_token and not self.keep_class_token else features
