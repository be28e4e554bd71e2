"""`ImagePlan`: what happens to one picture, decided once from its size and the family's tiler.

The prompt renderer takes `num_tokens` from it and the vision tower takes the crops, so the two counts
can't disagree. Plans are pure data: computing one opens no pixels.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Crop:
    """One picture-shaped input of the vision tower.

    The source is first scaled to `resized` (width, height), then placed so that its pixel (0, 0) falls on
    `offset` (x, y) of a canvas of `size`; negative offsets crop, positive ones pad. `resized` and `offset` are
    fractions of a pixel where padding comes before scaling, so that coordinates stay exact.
    """

    resized: tuple[float, float]
    offset: tuple[float, float]
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """How one picture becomes visual tokens.

    Attributes:
        source: (width, height) of the picture in original pixels, EXIF orientation applied.
        crops: inputs of the vision tower, in the family's order (base crop first for anyres).
        grid: (rows, columns) of tiles, (1, 1) without tiling, base crop not counted.
        tokens: (rows, columns) of visual tokens that one crop gives.
        num_tokens: visual tokens the language model sees for this picture, newlines and separators
            included; 0 for a tower that pools.
        steps: how many groups of frames a video's tokens stand for; 1 for a picture.
        seconds: when each of a video's frames was taken; empty for a picture.
        step_seconds: seconds from one group of frames to the next; 0 for a picture.
    """

    source: tuple[int, int]
    crops: tuple[Crop, ...]
    grid: tuple[int, int] = (1, 1)
    tokens: tuple[int, int] = (1, 1)
    num_tokens: int = 0
    steps: int = 1
    seconds: tuple[float, ...] = ()
    step_seconds: float = 0.0

    @property
    def is_video(self) -> bool:
        """The plan is a video's: its crops are frames."""
        return bool(self.seconds)

    @property
    def cropped_share(self) -> float:
        """Share of the source's area (0..1) that no crop shows."""
        whole = len(self.crops) == 1 or self.is_video
        seen = _visible_share(self.crops[0]) if whole else 0.0
        if not whole:  # tiles share one resized canvas: their visible parts are disjoint
            tiles = self.crops[1:] if self.grid != (1, 1) else self.crops
            seen = min(1.0, max(_visible_share(self.crops[0]), sum(_visible_share(crop) for crop in tiles)))
        return round(1.0 - seen, 6)

    def to_source(self, x: float, y: float, crop: int = 0) -> tuple[float, float]:
        """Map pixel (x, y) of a crop back to original pixels (not clipped)."""
        c = self.crops[crop]
        return (
            (x - c.offset[0]) * self.source[0] / c.resized[0],
            (y - c.offset[1]) * self.source[1] / c.resized[1],
        )


def _visible_share(crop: Crop) -> float:
    (rw, rh), (ox, oy), (cw, ch) = crop.resized, crop.offset, crop.size
    width = max(0, min(cw, ox + rw) - max(0, ox))
    height = max(0, min(ch, oy + rh) - max(0, oy))
    return width * height / (rw * rh)
