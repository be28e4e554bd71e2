"""Tilers of the towers at native resolution: the picture keeps its shape, and its size decides its tokens.

* `SmartResize`: Qwen2-VL and Qwen2.5-VL (Wang et al. 2024, §2.1): both sides rounded to whole visual tokens, the area
  brought between two limits.
* `NativePack`: MoonViT (Kimi-VL 2025, §2.1): the picture as it is, made smaller where it has too many patches, and
  padded to whole visual tokens at the right and bottom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from PIL import Image

from chiasm.core.errors import ConfigError, PictureError
from chiasm.core.plan import Crop, ImagePlan
from chiasm.processing.tilers import BICUBIC, Size, render_crops

MAX_RATIO = 200  # the published code refuses longer pictures


@dataclass(frozen=True, kw_only=True, slots=True)
class SmartResize:
    """Both sides to multiples of a visual token's side, the area between two limits.

    Attributes:
        min_pixels, max_pixels: limits of the resized area.
        patch: pixels of a patch's side.
        merge: patches along one side of a visual token.
        max_tokens: a budget that even the thinnest picture keeps to; None = the published rule alone.
    """

    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    patch: int = 14
    merge: int = 2
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ConfigError("image_size_unknown", f"min_pixels {self.min_pixels}, max_pixels {self.max_pixels}")

    @property
    def factor(self) -> int:
        """Pixels of a visual token's side."""
        return self.patch * self.merge

    @property
    def fewest_tokens(self) -> int:
        """Visual tokens of the smallest picture."""
        return 1

    def plan(self, size: Size) -> ImagePlan:
        """One crop that shows everything; see `Tiler`.

        Raises:
            PictureError: one side is over 200 times the other, which the family refuses.
        """
        width, height = self.resized(size)
        tokens = (height // self.factor, width // self.factor)
        crop = Crop((width, height), (0, 0), (width, height))
        return ImagePlan(size, (crop,), (1, 1), tokens, tokens[0] * tokens[1])

    def resized(self, size: Size) -> Size:
        """(width, height) after scaling."""
        width, height = size
        if max(size) > MAX_RATIO * min(size):
            raise PictureError(
                "picture_too_thin",
                f"the picture has {width}×{height} pixels, one side {max(size) / min(size):.0f} times the other; "
                f"the model takes {MAX_RATIO}",
                hint="crop it",
            )
        tall, wide = (round(side / self.factor) * self.factor for side in (height, width))
        if tall * wide > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            tall, wide = (
                max(self.factor, math.floor(side / shrink / self.factor) * self.factor) for side in (height, width)
            )
        elif tall * wide < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            tall, wide = (math.ceil(side * grow / self.factor) * self.factor for side in (height, width))
        if self.max_tokens is not None and tall * wide > self.max_tokens * self.factor**2:
            short = min(tall, wide, self.max_tokens * self.factor) // self.factor
            long = max(1, min(max(tall, wide) // self.factor, self.max_tokens // short)) * self.factor
            wide, tall = (long, short * self.factor) if wide >= tall else (short * self.factor, long)
        return wide, tall

    def within(self, tokens: int) -> SmartResize:
        """The same with at most so many visual tokens a picture."""
        pixels = tokens * self.factor**2
        low, high = min(self.min_pixels, pixels), min(self.max_pixels, pixels)
        return replace(self, min_pixels=low, max_pixels=high, max_tokens=tokens)

    def render(self, picture: Image.Image, plan: ImagePlan, resample: int = BICUBIC) -> list[Image.Image]:
        """One crop; see `Tiler`."""
        return render_crops(picture, plan.crops[:1], resample)


@dataclass(frozen=True, kw_only=True, slots=True)
class NativePack:
    """The picture as it is, within a number of patches, black at the right and bottom up to whole visual tokens.

    Attributes:
        max_patches: most patches of a picture; a larger one is made smaller.
        patch: pixels of a patch's side.
        merge: patches along one side of a visual token.
        max_side: most patches along one side, where the learned positions end.
        max_tokens: a budget that holds with the padding counted; None = the published rule alone.
    """

    max_patches: int = 4096
    patch: int = 14
    merge: int = 2
    max_side: int = 512
    max_tokens: int | None = None

    fewest_tokens: ClassVar[int] = 1

    def plan(self, size: Size) -> ImagePlan:
        """One crop that shows everything; see `Tiler`.

        Raises:
            PictureError: a side has more patches than the model has positions.
        """
        width, height = size
        patches = (width // self.patch) * (height // self.patch)
        if patches > self.max_patches:
            scale = math.sqrt(self.max_patches / patches)
            width, height = max(1, int(width * scale)), max(1, int(height * scale))
        side = self.patch * self.merge
        canvas = (math.ceil(width / side) * side, math.ceil(height / side) * side)
        while self.max_tokens is not None and canvas[0] * canvas[1] > self.max_tokens * side * side:
            # smaller by one row or column of tokens, whichever the picture loses least by
            longer = max(canvas) - side
            scale = longer / max(width, height)
            width, height = max(1, int(width * scale)), max(1, int(height * scale))
            canvas = (math.ceil(width / side) * side, math.ceil(height / side) * side)
        most = max(canvas) // self.patch
        if most >= self.max_side:
            raise PictureError(
                "picture_too_thin",
                f"the picture of {size[0]}×{size[1]} pixels has {most} patches along one side; "
                f"the model takes {self.max_side - 1}",
                hint="crop it",
            )
        tokens = (canvas[1] // side, canvas[0] // side)
        return ImagePlan(size, (Crop((width, height), (0, 0), canvas),), (1, 1), tokens, tokens[0] * tokens[1])

    def within(self, tokens: int) -> NativePack:
        """The same with at most so many visual tokens a picture, padding counted."""
        return replace(self, max_patches=min(self.max_patches, tokens * self.merge**2), max_tokens=tokens)

    def render(self, picture: Image.Image, plan: ImagePlan, resample: int = BICUBIC) -> list[Image.Image]:
        """One crop; see `Tiler`."""
        return render_crops(picture, plan.crops[:1], resample)


def film_plan(tiler: SmartResize, size: Size, seconds: Sequence[float], frames: int, fps: float) -> ImagePlan:
    """A video's plan: every frame by one rule, tokens for each group of frames.

    Args:
        tiler: how one frame is resized.
        size: (width, height) of a frame.
        seconds: when each frame was taken.
        frames: frames of one group; a last group that isn't full repeats its last frame.
        fps: frames per second among the frames given.

    Returns:
        The plan; `tokens` is the grid of one group.
    """
    one, steps = tiler.plan(size), math.ceil(len(seconds) / frames)
    return replace(
        one,
        crops=one.crops * len(seconds),
        num_tokens=one.num_tokens * steps,
        steps=steps,
        seconds=tuple(seconds),
        step_seconds=frames / fps,
    )
