"""Real fonts for text in pictures: one inside Pillow, the others as small wheels, so that pixels agree everywhere.

| face | from | licence |
|---|---|---|
| `aileron` | Pillow's own default (a subset of Aileron Regular) | CC0 |
| `caladea`, `caladea-bold`, `caladea-italic` | `font-caladea` | Apache-2.0 |
| `fredoka` | `font-fredoka-one` | OFL-1.1 |
| `amatic` | `font-amatic-sc` | OFL-1.1 |
"""

from __future__ import annotations

import io
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

from chiasm.core.errors import SourceError

if TYPE_CHECKING:
    from PIL import ImageFont

_WHEELS = {
    "caladea": ("font_caladea", "Caladea-Regular.ttf"),
    "caladea-bold": ("font_caladea", "Caladea-Bold.ttf"),
    "caladea-italic": ("font_caladea", "Caladea-Italic.ttf"),
    "fredoka": ("font_fredoka_one", "FredokaOne-Regular.ttf"),
    "amatic": ("font_amatic_sc", "AmaticSC-Bold.ttf"),
}
FACES = ("aileron", *_WHEELS)
SEEN_FACES = ("aileron", "caladea", "caladea-bold", "amatic")
UNSEEN_FACES = ("caladea-italic", "fredoka")


@lru_cache(maxsize=256)
def font(face: str, height: int) -> ImageFont.FreeTypeFont:
    """A font at a size.

    Args:
        face: one of `FACES`.
        height: its size in pixels.

    Raises:
        SourceError: its wheel isn't installed.
    """
    from PIL import ImageFont

    if face == "aileron":
        loaded = ImageFont.load_default(max(4, height))
        assert isinstance(loaded, ImageFont.FreeTypeFont), "this Pillow was built without FreeType"
        return loaded
    package, name = _WHEELS[face]
    try:
        data = (files(package) / "files" / name).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        wheel = package.replace("_", "-")
        raise SourceError(
            "font_missing", f"the font {face} needs {wheel}, which isn't installed", hint=f"pip install {wheel}"
        ) from error
    return ImageFont.truetype(io.BytesIO(data), max(4, height), layout_engine=ImageFont.Layout.BASIC)
