"""The pictures that scenes are composed of, opened once, trimmed to what they show, and kept in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chiasm.core.errors import SourceError
from chiasm.data.packs import Picture, load_pack

if TYPE_CHECKING:
    from PIL import Image

_VISIBLE = 24  # alpha below this is shadow or fringe, not the thing


class Shelf:
    """Pictures by the keys of `vocabulary.tsv`; the packs are fetched when the first picture is asked for.

    Args:
        size: pixels of the longer side that a picture is opened at.
    """

    def __init__(self, size: int = 192) -> None:
        self.size = size
        self._index: dict[str, Picture] = {}
        self._open: dict[str, Image.Image] = {}

    def __call__(self, key: str) -> Image.Image:
        """The RGBA picture of a key, transparent margins cut off.

        Raises:
            SourceError: the packs hold no such picture.
            PictureError: its file can't be read.
        """
        if key not in self._open:
            art = self.record(key).open(self.size)
            box = art.getchannel("A").point(lambda alpha: 255 if alpha > _VISIBLE else 0).getbbox()
            self._open[key] = art.crop(box) if box else art
        return self._open[key]

    def record(self, key: str) -> Picture:
        """What its pack says about a picture: caption, group, identity."""
        if not self._index:
            self._index = {picture.key: picture for pack in ("stamps", "openmoji") for picture in load_pack(pack)}
        full = f"stamps/{key}" if "/" in key else f"openmoji/{key}"
        if full not in self._index:
            raise SourceError("picture_unknown", f"no pack holds the picture {key!r}")
        return self._index[full]
