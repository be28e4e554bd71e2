"""Tilers: from a picture's size to an `ImagePlan`, and from the plan to the crops a vision tower takes.

Each family's published preprocessing is one frozen dataclass with two pure functions, `plan(size)` and
`render(picture, plan)`. They agree with transformers' PIL processors to the bit:

* `CenterCrop`: CLIP (Radford et al. 2021, arXiv:2103.00020).
* `Stretch`: SigLIP (Zhai et al. 2023, arXiv:2303.15343).
* `PadSquare`: LLaVA-1.5 (Liu et al. 2023, arXiv:2310.03744).
* `AnyRes`: LLaVA-NeXT (Liu et al. 2024): a base crop of the whole picture, then tiles of the picture fitted
  into the best of a few canvases.

Sizes are (width, height), except canvases ("pinpoints"), which published settings write as (height, width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from chiasm.core.errors import ConfigError
from chiasm.core.plan import Crop, ImagePlan

if TYPE_CHECKING:
    import numpy as np

Size = tuple[int, int]
BICUBIC = int(Image.Resampling.BICUBIC)

_WHOLE_RESIZE_PIXELS = 2**25  # enlarged above this, only the part of a picture that a crop shows is computed
_BAND_PIXELS = 2**24  # a padded picture is never held whole above this
_WINDOW_SEARCH = 512


class Tiler(Protocol):
    """Decides what a picture becomes, and makes it so."""

    def plan(self, size: Size) -> ImagePlan:
        """What happens to a picture of (width, height)."""
        ...

    def render(
        self, picture: Image.Image, plan: ImagePlan, resample: int = BICUBIC
    ) -> Sequence[Image.Image | np.ndarray]:
        """The plan's crops, in its order; (h, w, 3) float levels where the family scales in floating point."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class CenterCrop:
    """Scale, then cut the middle out; what a small picture leaves over is black.

    Attributes:
        resize: length of the shortest edge after scaling; or an exact (width, height); or None to keep the size.
        crop: (width, height) that is cut out; None keeps the whole resized picture.
        half_even: where an odd margin is split: False as transformers does (the smaller half on the left and
            top), True as torchvision and open_clip do (halves rounded to even).
        patch: pixels of one visual token's side; None for a tower that pools.
        extra: visual tokens beside the patches, such as a class token.
    """

    resize: int | Size | None = 224
    crop: Size | None = (224, 224)
    half_even: bool = False
    patch: int | None = None
    extra: int = 0

    def plan(self, size: Size) -> ImagePlan:
        """One crop; see `Tiler`."""
        if self.resize is None:
            resized = size
        elif isinstance(self.resize, int):
            resized = _shortest_edge(size, self.resize)
        else:
            resized = self.resize
        crop = self.crop or resized
        offset = (self._offset(resized[0], crop[0]), self._offset(resized[1], crop[1]))
        return _single(size, Crop(resized, offset, crop), self.patch, self.extra)

    def _offset(self, length: int, crop: int) -> int:
        if not self.half_even:
            return -((length - crop) // 2)
        return (crop - length) // 2 if crop > length else -round((length - crop) / 2)

    def render(self, picture: Image.Image, plan: ImagePlan, resample: int = BICUBIC) -> list[Image.Image]:
        """One crop; see `Tiler`."""
        return render_crops(picture, plan.crops, resample)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """Scale to an exact size, whatever the picture's shape.

    Attributes:
        size: (width, height) of the result.
        patch: pixels of one visual token's side; None for a tower that pools.
        extra: visual tokens beside the patches.
    """

    size: Size = (224, 224)
    patch: int | None = None
    extra: int = 0

    def plan(self, size: Size) -> ImagePlan:
        """One crop that shows everything; see `Tiler`."""
        return _single(size, Crop(self.size, (0, 0), self.size), self.patch, self.extra)

    def render(self, picture: Image.Image, plan: ImagePlan, resample: int = BICUBIC) -> list[Image.Image]:
        """One crop; see `Tiler`."""
        return render_crops(picture, plan.crops, resample)


@dataclass(frozen=True, kw_only=True, slots=True)
class PadSquare:
    """Pad to a square with one colour, then scale it: nothing is cut away and nothing is stretched.

    Attributes:
        side: width and height of the result.
        fill: RGB colour of the padding; published models use their mean colour.
        patch: pixels of one visual token's side; None for a tower that pools.
        extra: visual tokens beside the patches.
    """

    side: int = 336
    fill: tuple[int, int, int] = (122, 116, 104)
    patch: int | None = None
    extra: int = 0

    def plan(self, size: Size) -> ImagePlan:
        """One crop that shows everything; see `Tiler`."""
        longest = max(size)
        scale = self.side / longest
        resized = (size[0] * self.side / longest, size[1] * self.side / longest)
        offset = ((longest - size[0]) // 2 * scale, (longest - size[1]) // 2 * scale)
        return _single(size, Crop(resized, offset, (self.side, self.side)), self.patch, self.extra)

    def render(self, picture: Image.Image, plan: ImagePlan, resample: int = BICUBIC) -> list[Image.Image]:
        """One crop; see `Tiler`.

        Padding comes before scaling, as in the reference, so colours blend at the border. Rows are scaled in
        bands and columns afterwards, which is what Pillow does inside, so a 1×60,000 picture is never held as
        a square.
        """
        (width, height), longest, side = picture.size, max(picture.size), self.side
        left, top = (longest - width) // 2, (longest - height) // 2
        if longest * longest <= _BAND_PIXELS:
            square = Image.new("RGB", (longest, longest), self.fill)
            square.paste(picture, (left, top))
            return [square.resize((side, side), resample)]
        scaled = Image.new("RGB", (side, longest), self.fill)
        rows = max(1, _BAND_PIXELS // longest)
        for start in range(0, height, rows):
            stop = min(height, start + rows)
            band = Image.new("RGB", (longest, stop - start), self.fill)
            band.paste(picture.crop((0, start, width, stop)), (left, 0))
            scaled.paste(band.resize((side, stop - start), resample), (0, top + start))
        return [scaled.resize((side, side), resample)]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnyRes:
    """The whole picture stretched to one crop, then tiles of the picture fitted into the best canvas.

    Attributes:
        side: width and height of every crop.
        pinpoints: (height, width) of the canvases to choose from, multiples of `side`. The canvas that keeps
            most of the picture's pixels wins, then the one that wastes least, then the first.
        patch: pixels of one visual token's side; None for a tower that pools.
        extra: visual tokens beside the patches, counted once for a picture.
    """

    side: int = 336
    pinpoints: tuple[Size, ...] = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
    patch: int | None = None
    extra: int = 0

    def __post_init__(self) -> None:
        if not self.pinpoints:
            raise ConfigError("pinpoints_empty", "tiling needs at least 1 canvas, got 0")
        for height, width in self.pinpoints:
            if height < self.side or width < self.side or height % self.side or width % self.side:
                raise ConfigError(
                    "pinpoint_not_tiled",
                    f"a canvas of {height}×{width} (height×width) isn't made of tiles of {self.side}",
                )

    def plan(self, size: Size) -> ImagePlan:
        """Base crop and tiles, row by row; see `Tiler`."""
        height, width = best_canvas(size, self.pinpoints)
        resized = _fit(size, (width, height))
        left, top = (width - resized[0]) // 2, (height - resized[1]) // 2
        side = (self.side, self.side)
        rows, columns = height // self.side, width // self.side
        tiles = [
            Crop(resized, (left - column * self.side, top - row * self.side), side)
            for row in range(rows)
            for column in range(columns)
        ]
        tokens, count = (1, 1), 0
        if self.patch:
            tokens = (self.side // self.patch, self.side // self.patch)
            _, _, kept_rows, kept_columns = unpadded_grid(size, (rows * tokens[0], columns * tokens[1]))
            count = tokens[0] * tokens[1] + self.extra + kept_rows * (kept_columns + 1)  # one newline a row
        return ImagePlan(size, (Crop(side, (0, 0), side), *tiles), (rows, columns), tokens, count)

    def render(self, picture: Image.Image, plan: ImagePlan, resample: int = BICUBIC) -> list[Image.Image]:
        """Base crop and tiles; see `Tiler`."""
        return render_crops(picture, plan.crops, resample)


def best_canvas(size: Size, pinpoints: Sequence[Size]) -> Size:
    """The canvas that a picture is fitted into.

    Args:
        size: (width, height) of the picture.
        pinpoints: (height, width) of each canvas.

    Returns:
        (height, width): the one in which most of the picture's pixels survive, then the least wasteful one,
        then the first.
    """
    pixels = size[0] * size[1]

    def merit(pinpoint: Size) -> tuple[int, int]:
        height, width = pinpoint
        scale = min(width / size[0], height / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), pixels)
        return kept, kept - width * height

    return max(pinpoints, key=merit)  # the first of equals


def unpadded_grid(size: Size, grid: Size) -> tuple[int, int, int, int]:
    """The part of a stitched token grid that shows the picture rather than the canvas's padding.

    Args:
        size: (width, height) of the picture.
        grid: (rows, columns) of tokens of the whole canvas.

    Returns:
        (top, left, rows, columns) of the part to keep. A very thin picture may keep no row, as in the
        reference; the base crop still shows it.
    """
    (width, height), (rows, columns) = size, grid
    if width / height > columns / rows:
        padding = (rows - int(round(height * (columns / width), 7))) // 2
        return padding, 0, rows - 2 * padding, columns
    padding = (columns - int(round(width * (rows / height), 7))) // 2
    return 0, padding, rows, columns - 2 * padding


# --- shared ---------------------------------------------------------------------------------------------------


def _single(source: Size, crop: Crop, patch: int | None, extra: int) -> ImagePlan:
    if patch is None:
        return ImagePlan(source, (crop,))
    tokens = (crop.size[1] // patch, crop.size[0] // patch)
    return ImagePlan(source, (crop,), (1, 1), tokens, tokens[0] * tokens[1] + extra)


def _shortest_edge(size: Size, edge: int) -> Size:
    width, height = size
    if width <= height:
        return edge, int(edge * height / width)
    return int(edge * width / height), edge


def _fit(size: Size, canvas: Size) -> Size:
    """The largest size of the picture's shape inside a canvas, its free side rounded up."""
    across, down = canvas[0] / size[0], canvas[1] / size[1]
    if across < down:
        return canvas[0], min(math.ceil(size[1] * across), canvas[1])
    return min(math.ceil(size[0] * down), canvas[0]), canvas[1]


def render_crops(picture: Image.Image, crops: Sequence[Crop], resample: int) -> list[Image.Image]:
    """Scale once for each distinct size, then cut; whatever lies outside the scaled picture is black."""
    scaled: dict[tuple[float, float], Image.Image] = {}
    rendered = []
    for crop in crops:
        size, (x, y), (width, height) = _whole(crop.resized), _whole(crop.offset), crop.size
        if size[0] * size[1] > max(_WHOLE_RESIZE_PIXELS, picture.width * picture.height):
            rendered.append(_window(picture, size, (-x, -y, width - x, height - y), resample))
            continue
        if crop.resized not in scaled:
            scaled[crop.resized] = picture.resize(size, resample)
        whole = scaled[crop.resized]
        same = (x, y) == (0, 0) and whole.size == crop.size
        rendered.append(whole if same else whole.crop((-x, -y, width - x, height - y)))
    return rendered


def _window(picture: Image.Image, size: Size, box: tuple[int, int, int, int], resample: int) -> Image.Image:
    """The part `box` of `picture.resize(size)`, without computing the rest.

    Rows first and columns afterwards, as Pillow enlarges; asked for both at once it would choose the order by the
    window's size. It keeps the source box in 32-bit floats: of the windows a little larger than asked, the
    one whose edges those floats hold best is taken, which leaves one level's difference in a pixel of thousands.
    """
    left, right = _exact_span(box[0], box[2], picture.width, size[0])
    top, bottom = _exact_span(box[1], box[3], picture.height, size[1])
    across, down = picture.width / size[0], picture.height / size[1]
    columns = (left * across, 0.0, min(right * across, picture.width), picture.height)
    part = picture.resize((right - left, picture.height), resample, box=columns)
    rows = (0.0, top * down, part.width, min(bottom * down, picture.height))
    part = part.resize((part.width, bottom - top), resample, box=rows)
    return part.crop((box[0] - left, box[1] - top, box[2] - left, box[3] - top))


def _exact_span(start: int, stop: int, source: int, length: int) -> Size:
    start, stop = max(0, start), min(length, stop)

    def error(edge: int) -> float:
        exact = edge * source / length
        return abs(exact - _float32(exact))

    return (
        min(range(start, max(-1, start - _WINDOW_SEARCH), -1), key=error),
        min(range(stop, min(length, stop + _WINDOW_SEARCH) + 1), key=error),
    )


def _float32(value: float) -> float:
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 2**24), exponent - 24)


def _whole(pair: tuple[float, float]) -> Size:
    return int(pair[0]), int(pair[1])
