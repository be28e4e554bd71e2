"""ViLT's pictures (Kim et al. 2021, §4.1): whole, in their own shape, edges rounded down to whole patches.

The short edge becomes `shorter`, unless the long one would then exceed `longer`. A batch is padded at the right and
bottom with zeros after normalisation; a plan's crop tells a picture's own size. A picture so thin that no whole row or
column of patches would be left is refused by name, where the reference makes an empty tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from chiasm.core.errors import PictureError
from chiasm.core.plan import Crop, ImagePlan
from chiasm.processing.tilers import BICUBIC, Size


@dataclass(frozen=True, kw_only=True, slots=True)
class MinMaxEdge:
    """Scale into two limits, keeping the shape.

    Attributes:
        shorter: pixels that the short edge becomes.
        longer: pixels that the long edge may not exceed.
        divisor: both edges are rounded down to multiples of it.
        patch: pixels of one visual token's side.
        extra: visual tokens beside the patches.
    """

    shorter: int = 384
    longer: int = 639
    divisor: int = 32
    patch: int | None = None
    extra: int = 0

    def plan(self, size: Size) -> ImagePlan:
        """One crop that shows everything; see `tilers.Tiler`.

        Raises:
            PictureError: ``picture_too_thin``.
        """
        scale = self.shorter / min(size)
        width, height = (self.shorter if edge == min(size) else scale * edge for edge in size)
        if max(width, height) > self.longer:
            scale = self.longer / max(width, height)
            width, height = scale * width, scale * height
        fitted = tuple(int(edge + 0.5) // self.divisor * self.divisor for edge in (width, height))
        if not all(fitted):
            what = f"a picture of {size[0]}×{size[1]} pixels becomes {fitted[0]}×{fitted[1]}"
            least = f"at least {self.divisor} on either side are needed"
            raise PictureError("picture_too_thin", f"{what}, {least}", hint="crop the picture")
        whole = (fitted[0], fitted[1])
        patch = self.patch or self.divisor
        tokens = (whole[1] // patch, whole[0] // patch)
        return ImagePlan(size, (Crop(whole, (0, 0), whole),), (1, 1), tokens, tokens[0] * tokens[1] + self.extra)

    def render(self, picture: Image.Image, plan: ImagePlan, resample: int = BICUBIC) -> list[Image.Image]:
        """One crop; see `tilers.Tiler`."""
        return [picture.resize(plan.crops[0].size, resample)]
