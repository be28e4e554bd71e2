"""From what a row says of a picture to a source that `processing.pictures` reads. Nothing is opened here.

Names stay inside the data: a relative or absolute path is taken only when it leads, all links followed, into the
folder of the data or the folder that the caller named. Addresses are passed on as they are and refused when read.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chiasm.core.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_BESIDE = ("images", "image", "imgs", "pictures", "photos")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")


class PictureFinder:
    """Finds pictures by what a row says.

    Args:
        folders: where relative names are looked for, best first; nothing outside them is ever given out.
        members: pictures that stand beside the row in its tar sample, by name.
    """

    def __init__(self, folders: Sequence[Path], members: Mapping[str, Any] | None = None) -> None:
        self.folders = [str(folder) for folder in folders]
        self.members = members or {}
        self._real: dict[str, str] = {}

    @classmethod
    def beside(cls, file: Path, images: Path | None = None, names: Sequence[str] = ()) -> PictureFinder:
        """Pictures of a data file: in `images`, in its own folder, or in a folder called `images` or the like there.

        Args:
            file: the data file; beside a folder `annotations`, its parent counts as well.
            images: the folder that the caller named.
            names: more names of folders, such as ``train2017``.
        """
        if images is not None and not images.is_dir():
            raise DataError("folder_missing", f"{images} is no folder")
        home = file.parent
        homes = [home, home.parent] if home.name in ("annotations", "questions") else [home]
        homes += [base / name for base in homes for name in _BESIDE if (base / name).is_dir()]
        homes = homes if images is None else [images, *homes]
        return cls([*homes, *(base / name for base in homes for name in names if (base / name).is_dir())])

    def __call__(self, value: Any) -> Any:
        """A source of `read_picture`.

        Args:
            value: a path, a data URI, base64, encoded bytes, or a mapping with `bytes`, `path` or `url`.

        Raises:
            DataError: nothing that names a picture, or a path that leads out of the data's folders.
        """
        if isinstance(value, Mapping):
            value = next((value[name] for name in ("bytes", "path", "url", "image") if value.get(name)), None)
        if isinstance(value, (bytes, bytearray)) and value:
            return bytes(value)
        if isinstance(value, (bytes, bytearray)):
            raise DataError("picture_empty", "the row holds 0 bytes where a picture should be")
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str) or not value.strip():
            kind = "nothing" if value is None or value == "" else f"a {type(value).__name__}"
            raise DataError("picture_missing", f"the row names {kind} where a picture should be")
        if value in self.members:
            return self.members[value]
        if _ADDRESS.match(value[:40]) and not os.path.exists(value[:4096]):
            return value  # a data URI; or an address, which the reader of pictures refuses by name
        if len(value) > 300 and _BASE64.fullmatch(value):
            try:
                return base64.b64decode("".join(value.split()), validate=True)
            except binascii.Error:
                raise DataError("picture_unreadable", f"{len(value):,} characters that are not valid base64") from None
        return self._path(value)

    def _path(self, value: str) -> str:
        if "\0" in value:
            raise DataError("picture_outside", f"{value[:80]!r} is no name of a file")
        candidates = [value] if os.path.isabs(value) else [os.path.join(folder, value) for folder in self.folders]
        inside = [path for path in candidates if self._stays_inside(path)]
        found = next((path for path in inside if os.path.exists(path)), None)
        if found is None and len(inside) < len(candidates):
            where = self.folders[0] if self.folders else "its tar sample"
            raise DataError(
                "picture_outside",
                f"the picture {value[:200]!r} lies outside {where}",
                hint="name its folder: --images FOLDER",
            )
        if not candidates:
            raise DataError("picture_missing", f"the tar sample has no picture {value[:200]!r}")
        return inside[0] if found is None else found

    def _stays_inside(self, path: str) -> bool:
        """Whether a path, links followed, lies in one of the folders; folders are resolved once."""
        folder, name = os.path.split(os.path.normpath(path))
        real = self._resolved(folder)
        if os.path.islink(path):
            real, name = os.path.split(os.path.realpath(path))
        target = os.path.join(real, name)
        return any(
            target == root or target.startswith(root.rstrip(os.sep) + os.sep)
            for root in map(self._resolved, self.folders)
        )

    def _resolved(self, folder: str) -> str:
        if folder not in self._real:
            if len(self._real) > 100_000:
                self._real.clear()
            self._real[folder] = os.path.realpath(folder)
        return self._real[folder]
