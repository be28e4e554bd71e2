"""Cut-out pictures, ready to paste: decoded once for all processes, trimmed, scaled, turned, coloured.

Decoding a drawing takes milliseconds, pasting one a tenth of that. So all pictures of the vocabulary are decoded once
into one memory-mapped file a size under the cache folder; the larger size, which few tasks need, is decoded on demand.
"""

from __future__ import annotations

import json
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from chiasm.core.errors import ConfigError, SourceError
from chiasm.core.files import replacing, write_text
from chiasm.data.debian import STAMPS_HINT, cache_folder
from chiasm.data.packs import Picture, load_pack
from chiasm.data.worlds.vocabulary import nouns

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

LEVELS = (64, 192)  # pixels of the longer side, stored; anything larger is decoded at `_LARGE`
_LARGE = 400
_VISIBLE = 24  # alpha below this is shadow or fringe, not the thing
_FORMAT = 1
ARTS = ("all", "openmoji")

# name → (dark, light): what black and white become. Red, green and blue are kept apart in lightness as well.
COLOURS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "red": ((70, 0, 0), (255, 70, 60)),
    "orange": ((95, 40, 0), (255, 160, 30)),
    "yellow": ((95, 75, 0), (255, 240, 60)),
    "green": ((0, 45, 10), (70, 200, 70)),
    "blue": ((0, 10, 70), (80, 130, 255)),
    "purple": ((40, 0, 60), (165, 80, 220)),
    "pink": ((120, 20, 70), (255, 170, 215)),
}


class Sprites:
    """The vocabulary's pictures.

    Args:
        art: `all` (OpenMoji and stamps) or `openmoji` (what pip alone brings).
    """

    def __init__(self, art: str = "all") -> None:
        if art not in ARTS:
            raise ConfigError("art_unknown", f"art {art!r}; known are {', '.join(ARTS)}")
        self.art = art
        self._levels: dict[int, tuple[np.ndarray, dict[str, tuple[int, int, int]]]] = {}
        self._records: dict[str, Picture] = {}

    def cut_out(
        self, key: str, edge: int, *, mirrored: bool = False, angle: float = 0.0, colour: str | None = None
    ) -> Image.Image:
        """One picture, its longer visible side exactly `edge` pixels.

        Args:
            key: of `vocabulary.tsv`.
            edge: pixels.
            mirrored: left and right exchanged.
            angle: degrees, counter-clockwise.
            colour: a name of `COLOURS` that its shades are mapped to; None = its own colours.

        Returns:
            An RGBA picture whose border rows and columns are visible somewhere.
        """
        return _shaped(self, key, max(2, edge), mirrored, angle, colour)

    def decoded(self, key: str, level: int) -> Image.Image:
        """One picture at a stored size, trimmed."""
        from PIL import Image

        pixels, index = self._level(level)
        if key not in index:
            raise SourceError("picture_unknown", f"no pack holds the picture {key!r}")
        start, width, height = index[key]
        return Image.fromarray(pixels[start : start + 4 * width * height].reshape(height, width, 4), "RGBA")

    def record(self, key: str) -> Picture:
        """What its pack says about a picture."""
        if not self._records:
            self._records = _records(self.art)
        full = _full(key)
        if full not in self._records:
            raise SourceError("picture_unknown", f"no pack holds the picture {key!r}")
        return self._records[full]

    def _level(self, level: int) -> tuple[np.ndarray, dict[str, tuple[int, int, int]]]:
        if level not in self._levels:
            self._levels[level] = _stored(self, level)
        return self._levels[level]


@cache
def sprites(art: str = "all") -> Sprites:
    """The sprites of this process."""
    return Sprites(art)


def keys_of(art: str) -> tuple[str, ...]:
    """Every picture key of the vocabulary that an art has, in the file's order."""
    keys = (key for noun in nouns() for key in (*noun.seen, *noun.unseen))
    return tuple(dict.fromkeys(key for key in keys if art == "all" or "/" not in key))


def trim(art: Image.Image) -> Image.Image:
    """An RGBA picture without its invisible margins."""
    box = art.getchannel("A").point(_visible_table()).getbbox()
    return art.crop(box) if box else art


@cache
def _visible_table() -> list[int]:
    return [255 if alpha > _VISIBLE else 0 for alpha in range(256)]


@lru_cache(maxsize=4096)
def _shaped(source: Sprites, key: str, edge: int, mirrored: bool, angle: float, colour: str | None) -> Image.Image:
    from PIL import Image

    level = next((level for level in LEVELS if level >= edge), None)
    art = source.decoded(key, level) if level else _large(source, key)
    if mirrored:
        art = art.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if angle:
        art = trim(art.rotate(angle, Image.Resampling.BILINEAR, expand=True))
    scale = edge / max(art.size)
    size = max(1, round(art.width * scale)), max(1, round(art.height * scale))
    art = art.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0) if size != art.size else art
    return tinted(art, colour) if colour else art


@lru_cache(maxsize=128)
def _large(source: Sprites, key: str) -> Image.Image:
    return trim(source.record(key).open(_LARGE))


def tinted(art: Image.Image, colour: str) -> Image.Image:
    """A picture whose shades run from a colour's dark to its light end, outlines kept."""
    from PIL import Image

    shade = art.convert("L")
    channels = [shade.point(table) for table in _ramp(colour)]
    return Image.merge("RGBA", (*channels, art.getchannel("A")))


@cache
def _ramp(colour: str) -> tuple[list[int], ...]:
    """Red, green and blue for every shade of grey: dark at 0, light at 255, and light early: colours must show."""
    tables = []
    for low, high in zip(*COLOURS[colour], strict=True):
        lifted = [255 * (value / 255) ** 0.6 for value in range(256)]
        knee = 0.25 * low + 0.75 * high
        tables.append([
            round(low + (knee - low) * value / 110 if value < 110 else knee + (high - knee) * (value - 110) / 145)
            for value in lifted
        ])  # fmt: skip
    return tuple(tables)


def _full(key: str) -> str:
    return f"stamps/{key}" if "/" in key else f"openmoji/{key}"


def _records(art: str) -> dict[str, Picture]:
    found = {picture.key: picture for picture in load_pack("openmoji")}
    if art == "all":
        try:
            found |= {picture.key: picture for picture in load_pack("stamps")}
        except SourceError as error:
            raise SourceError(error.code, error.what, hint=f"{STAMPS_HINT}, or the option art=openmoji") from error
    return found


def _stored(source: Sprites, level: int) -> tuple[np.ndarray, dict[str, tuple[int, int, int]]]:
    """All pictures at one size from the cache folder, written there first where they aren't yet."""
    import numpy as np

    keys = keys_of(source.art)
    name = sha256("\n".join((f"{_FORMAT} {level}", *keys)).encode()).hexdigest()[:12]
    path = cache_folder() / "sprites" / f"{source.art}-{level}-{name}.rgba"
    described = path.with_suffix(".json")
    if not described.is_file():
        _store(source, keys, level, path)
    index = {key: tuple(entry) for key, entry in json.loads(described.read_text("utf-8")).items()}
    return np.memmap(path, np.uint8, "r"), index


def _store(source: Sprites, keys: tuple[str, ...], level: int, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    index, start = {}, 0
    with replacing(path) as beside, beside.open("wb") as file:
        for key in keys:
            art = source.record(key).open(2 * level)
            art = trim(art)
            art.thumbnail((level, level), reducing_gap=3.0)
            index[key] = (start, art.width, art.height)
            start += file.write(art.tobytes())
    write_text(path.with_suffix(".json"), json.dumps(index))  # comes last: who finds the description finds the pixels
