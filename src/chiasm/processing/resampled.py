"""The picture side of families whose connector makes a fixed number of visual tokens of every crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from chiasm.core.errors import ConfigError
from chiasm.core.plan import ImagePlan
from chiasm.processing.image_processor import ImageProcessor
from chiasm.processing.tilers import AnyRes, Stretch

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class ResampledPictures(ImageProcessor):
    """An image processor whose plans count what the connector makes of a crop, not its patches.

    Attributes:
        crop_tokens: visual tokens of a crop.
    """

    crop_tokens: int = 1

    @classmethod
    def of(cls, pictures: ImageProcessor, crop_tokens: int) -> ResampledPictures:
        """The same pictures, with `crop_tokens` visual tokens a crop."""
        kept = {field.name: getattr(pictures, field.name) for field in fields(ImageProcessor)}
        return cls(**kept, crop_tokens=crop_tokens)

    def plan(self, picture: Any) -> ImagePlan:
        """What happens to one picture; see `ImageProcessor.plan`."""
        return self._counted(ImageProcessor.plan(self, picture))

    def pixels(self, pictures: Sequence[Any]) -> tuple[torch.Tensor, list[ImagePlan]]:
        """Every crop of every picture, in order; see `ImageProcessor.pixels`."""
        pixels, plans = ImageProcessor.pixels(self, pictures)
        return pixels, [self._counted(plan) for plan in plans]

    def within(self, tokens: int) -> ResampledPictures:
        """The same with as many crops a picture as the budget holds; with the whole picture alone where no tiles fit.

        Raises:
            ConfigError: image_tokens_too_few, with the count.
        """
        if tokens < self.crop_tokens:
            raise ConfigError(
                "image_tokens_too_few",
                f"a budget of {tokens} visual tokens a picture; this model always makes {self.crop_tokens} of a crop",
                hint=f"--image-tokens {self.crop_tokens}",
            )
        tiler, most = self.tiler, tokens // self.crop_tokens
        if not isinstance(tiler, AnyRes):
            return self
        tiles = {point: point[0] * point[1] // tiler.side**2 for point in tiler.pinpoints}
        kept = tuple(point for point in tiler.pinpoints if 1 + tiles[point] <= most)
        return replace(self, tiler=replace(tiler, pinpoints=kept) if kept else Stretch(size=(tiler.side, tiler.side)))

    def _counted(self, plan: ImagePlan) -> ImagePlan:
        return replace(plan, num_tokens=self.crop_tokens * len(plan.crops))
