"""Pictures that keep their shape, side by side in one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from chiasm.core.plan import ImagePlan
from chiasm.processing.image_processor import ImageProcessor

if TYPE_CHECKING:
    import torch


class PaddedImageProcessor(ImageProcessor):
    """Pictures of several sizes in one tensor, padded with zeros at the right and bottom."""

    def pixels(self, pictures: Sequence[Any]) -> tuple[torch.Tensor, list[ImagePlan]]:
        """Every picture; see `ImageProcessor.pixels`."""
        import torch

        made = [ImageProcessor.pixels(self, [picture]) for picture in pictures]
        height, width = (max(pixels.shape[axis] for pixels, _ in made) for axis in (2, 3))
        batch = torch.zeros((len(made), 3, height, width))
        for row, (pixels, _) in enumerate(made):
            batch[row, :, : pixels.shape[2], : pixels.shape[3]] = pixels[0]
        return batch, [plan for _, plans in made for plan in plans]
