"""Forty-odd small pictures of odd sizes and modes, the same on every machine."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

SIZES = [
    (1, 1), (1, 7), (9, 1), (2, 3), (3, 2), (17, 13), (31, 64), (64, 31), (99, 100), (101, 99), (223, 224), (224, 224),
    (225, 223), (227, 301), (336, 336), (337, 333), (400, 75), (75, 401), (640, 480), (479, 641), (673, 672),
    (1009, 335), (1, 300), (500, 20), (1200, 901),
]  # fmt: skip
MODES = ("L", "LA", "1", "P", "RGBA", "CMYK", "YCbCr", "HSV", "RGBX", "PA", "I", "F")


def rgb(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth shapes under noise: edges, gradients and texture for a resampling filter to get wrong."""
    random = np.random.default_rng(1000 * width + height + seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (3 + 5 * c) + c) + np.cos(y / (4 + 3 * c)) for c in range(3)]
    noise = random.normal(0, 25, (height, width, 3))
    levels = 128 + 50 * np.stack(waves, -1) + noise + 60 * ((x // 11 + y // 7) % 2)[..., None]
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def with_mode(mode: str, width: int = 173, height: int = 131) -> Image.Image:
    """A picture of any mode, with real transparency where the mode has it."""
    picture = rgb(width, height, seed=len(mode))
    if mode in ("RGBA", "LA", "PA"):
        x = np.linspace(0, 255, width)[None].repeat(height, 0)
        alpha = Image.fromarray(x.astype(np.uint8))
        base = picture.convert({"RGBA": "RGB", "LA": "L", "PA": "P"}[mode])
        layered = base.convert(mode)
        layered.putalpha(alpha)
        return layered
    return picture.convert(mode)


def palette_with_transparency() -> Image.Image:
    """A GIF whose transparent index is used."""
    picture = rgb(120, 90).quantize(32)
    data = io.BytesIO()
    picture.save(data, "GIF", transparency=3)
    return Image.open(io.BytesIO(data.getvalue()))


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a file."""
    data = io.BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()


def exif_rotated(orientation: int, kind: str = "JPEG") -> bytes:
    """A file whose pixels lie on their side and whose EXIF says so."""
    picture = rgb(150, 100, seed=orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture, kind, exif=exif)


def gallery() -> dict[str, Image.Image]:
    """Every picture by a name that says what is odd about it."""
    pictures = {f"{w}x{h}": rgb(w, h) for w, h in SIZES}
    pictures |= {f"mode-{mode}": with_mode(mode) for mode in MODES}
    pictures["gif-transparent"] = palette_with_transparency()
    pictures["jpeg"] = Image.open(io.BytesIO(encoded(rgb(321, 243), "JPEG", quality=80)))
    pictures["jpeg-cmyk"] = Image.open(io.BytesIO(encoded(rgb(200, 150).convert("CMYK"), "JPEG")))
    pictures["png-rgb-transparent"] = Image.open(
        io.BytesIO(encoded(Image.new("RGB", (40, 30), (9, 8, 7)), "PNG", transparency=(9, 8, 7)))
    )
    pictures["webp-alpha"] = Image.open(io.BytesIO(encoded(with_mode("RGBA"), "WEBP", lossless=True)))
    return pictures
