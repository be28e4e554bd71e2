"""Backgrounds of scenes: plain colours, gradients, checks, stripes, noise and soft clouds."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

Colour = tuple[int, int, int]
KINDS = ("plain", "gradient", "checks", "stripes", "noise", "clouds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """One background; `seed` drives what is random in it and `pitch` its scale, as a share of the side."""

    kind: str
    first: Colour
    second: Colour
    seed: int
    pitch: float

    def draw(self, size: tuple[int, int]) -> Image.Image:
        """Paint it: an RGB picture of `size` (width, height)."""
        import numpy as np
        from PIL import Image

        if self.kind == "plain":
            return Image.new("RGB", size, self.first)
        mix = _mix(self, size)[..., None]  # (h, w, 1), 0 = first, 1 = second
        first, second = (np.asarray(colour, dtype=np.float32) for colour in (self.first, self.second))
        return Image.fromarray((first * (1 - mix) + second * mix).round().astype(np.uint8), "RGB")


def paint(background: Background, size: tuple[int, int]) -> Image.Image:
    """Paint a background several times faster than `Background.draw`, in 256 steps from one colour to the other.

    Args:
        background: what to paint.
        size: (width, height) in pixels.

    Returns:
        An RGB picture; the noise, and no other kind, has another grain than `draw`'s.
    """
    import numpy as np
    from PIL import Image

    first = Image.new("RGB", size, background.first)
    if background.kind == "plain":
        return first
    rng = np.random.default_rng(background.seed)
    x, y = (np.arange(extent, dtype=np.float32) for extent in size)
    pitch = background.pitch * min(size)
    angle = rng.uniform(0, 2 * np.pi)
    if background.kind == "clouds":
        coarse = Image.fromarray((rng.random((5, 5)) * 255).astype(np.uint8), "L")
        mix = coarse.resize(size, Image.Resampling.BICUBIC)
    else:
        if background.kind == "noise":
            values = rng.integers(0, 256, size[::-1], np.uint8)  # (h, w)
        elif background.kind == "checks":
            odd = np.add.outer(y // pitch, x // pitch) % 2
            values = (odd * 255).astype(np.uint8)
        else:
            along = np.add.outer(y * np.float32(np.sin(angle)), x * np.float32(np.cos(angle)))
            if background.kind == "stripes":
                values = ((along // pitch) % 2 * 255).astype(np.uint8)
            else:
                low, high = float(along[0, 0]), float(along[-1, -1])  # a plane's extremes are at its corners
                corners = (low, high, float(along[0, -1]), float(along[-1, 0]))
                low, high = min(corners), max(corners)
                values = ((along - low) * (255 / max(1e-6, high - low))).astype(np.uint8)
        mix = Image.fromarray(values, "L")
    return Image.composite(Image.new("RGB", size, background.second), first, mix)


def sample_background(rng: random.Random) -> Background:
    """Choose a background; a plain one half of the time, and mostly light."""
    kind = "plain" if rng.random() < 0.5 else rng.choice(KINDS[1:])
    first = (255, 255, 255) if kind == "plain" and rng.random() < 0.35 else _colour(rng)
    # Checks and stripes stay faint: at full contrast they would be objects of their own.
    near = kind in ("checks", "stripes", "noise")
    second = tuple(min(255, max(0, c + rng.randint(-40, 40))) for c in first) if near else _colour(rng)
    return Background(kind=kind, first=first, second=second, seed=rng.getrandbits(32), pitch=rng.uniform(0.06, 0.25))  # type: ignore[arg-type]


def _colour(rng: random.Random) -> Colour:
    low = 110 if rng.random() < 0.75 else 0
    return rng.randint(low, 255), rng.randint(low, 255), rng.randint(low, 255)


def _mix(background: Background, size: tuple[int, int]):  # type: ignore[no-untyped-def]
    import numpy as np
    from PIL import Image

    width, height = size
    rng = np.random.default_rng(background.seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    pitch = background.pitch * min(size)
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    if background.kind == "gradient":
        return (along - along.min()) / max(1e-6, float(along.max() - along.min()))
    if background.kind == "checks":
        return ((x // pitch + y // pitch) % 2).astype(np.float32)
    if background.kind == "stripes":
        return ((along // pitch) % 2).astype(np.float32)
    if background.kind == "noise":
        return rng.random((height, width), dtype=np.float32)
    coarse = Image.fromarray((rng.random((5, 5)) * 255).astype(np.uint8), "L")
    return np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.float32) / 255
