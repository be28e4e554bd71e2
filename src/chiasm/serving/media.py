"""The media gate: the only way a picture or a video enters the server.

Counts and bytes are checked first, over the whole request; then each picture's format by its first bytes, from an
allow-list; then its pixels, from its header, in a process that has little memory and time and can be killed.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from chiasm.core.errors import PictureError
from chiasm.serving.decoders import Decoders
from chiasm.serving.fetching import Fetcher
from chiasm.serving.settings import MediaLimits

if TYPE_CHECKING:
    from PIL import Image


class MediaRefusal(PictureError):
    """A picture that was refused, with its place among the request's pictures.

    Args:
        error: why.
        index: which picture, from 0.
    """

    def __init__(self, error: PictureError, index: int) -> None:
        super().__init__(error.code, error.what, hint=error.hint)
        self.index = index


class MediaGate:
    """Turns what a request names into pictures.

    Args:
        limits: what one request may cost.
        decoders: processes that decode.
        fetcher: for remote pictures; None = none is fetched.
        folder: under which local files may be named; None = none is read.
    """

    def __init__(
        self, limits: MediaLimits, decoders: Decoders, fetcher: Fetcher | None = None, folder: Path | None = None
    ) -> None:
        self.limits, self.decoders, self.fetcher = limits, decoders, fetcher
        self.folder = None if folder is None else Path(os.path.realpath(folder))

    def open(self, sources: Sequence[str], keep: Callable[[int], None] = lambda size: None) -> list[Image.Image]:
        """Read all pictures of one request; blocks.

        Args:
            sources: data URIs; http(s) addresses and files where the server allows them.
            keep: told the bytes of each decoded picture; what it raises ends the reading.

        Returns:
            Upright RGB pictures, in order.

        Raises:
            MediaRefusal: the first picture that was refused, and why.
        """
        if len(sources) > self.limits.max_pictures:
            refusal = PictureError(
                "too_many_pictures",
                f"the request holds {len(sources)} pictures, over the limit of {self.limits.max_pictures}",
            )
            raise MediaRefusal(refusal, self.limits.max_pictures)
        encoded: list[bytes] = []
        room, pixels = self.limits.max_total_bytes, self.limits.max_total_pixels
        pictures: list[Image.Image] = []
        index = 0
        fetch_until = time.monotonic() + self.limits.fetch_seconds
        try:
            for index, source in enumerate(sources):  # noqa: B007  # told when a picture is refused
                encoded.append(self._bytes(source, min(self.limits.max_bytes, room), fetch_until))
                room -= len(encoded[-1])
            spent = 0.0
            for index, data in enumerate(encoded):  # noqa: B007
                if spent > 2 * self.limits.decode_seconds:
                    raise PictureError("picture_too_slow", f"the pictures before it took {spent:.0f} seconds to decode")
                start = time.monotonic()
                picture = self.decoders.decode(data, max(1, min(self.limits.max_pixels, pixels)))
                spent += time.monotonic() - start
                pixels -= picture.width * picture.height
                keep(3 * picture.width * picture.height)
                pictures.append(picture)
        except PictureError as error:
            raise MediaRefusal(error, index) from None
        return pictures

    def close(self) -> None:
        """End the decoding processes."""
        self.decoders.close()

    def _bytes(self, source: str, allowed: int, until: float) -> bytes:
        scheme = source[:8].lower()
        if scheme.startswith("data:"):
            return _from_data_uri(source, allowed)
        if scheme.startswith(("http:", "https:")):
            if self.fetcher is None:
                raise PictureError(
                    "picture_remote", "remote pictures are not fetched by this server", hint="send a data URI"
                )
            return self.fetcher.fetch(source, allowed, until)
        if self.folder is not None and (scheme.startswith("file:") or "://" not in source[:32]):
            return self._from_folder(source, allowed)
        raise PictureError("picture_scheme", "the picture is not a data URI", hint="data:image/png;base64,…")

    def _from_folder(self, source: str, allowed: int) -> bytes:
        # Outside and missing look the same: the server doesn't tell which files a machine has.
        refused = PictureError("media_file", "no such picture in the folder that this server reads from")
        assert self.folder is not None
        if source[:5].lower() == "file:":
            parts = urlsplit(source)
            if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
                raise refused
            source = unquote(parts.path)
        try:
            place = Path(os.path.realpath(self.folder / source))
            if not place.is_relative_to(self.folder):
                raise refused
            with open(place, "rb", opener=_open_carefully) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise refused
                if status.st_size > allowed:
                    raise _too_large(status.st_size, allowed)
                return _filled(file.read(allowed + 1), allowed)
        except PictureError:
            raise
        except (OSError, ValueError):
            raise refused from None


def _open_carefully(path: str, flags: int) -> int:
    """A link put there since the check isn't followed, and a pipe isn't waited for."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _from_data_uri(uri: str, allowed: int) -> bytes:
    head, comma, body = uri[:256].partition(",")
    media, *options = head[len("data:") :].lower().split(";")
    if not comma or "base64" not in options or not media.startswith("image/"):
        raise PictureError(
            "picture_unknown_format", "the data URI is not a base64 picture", hint="data:image/png;base64,…"
        )
    start = len(head) + 1
    if (len(uri) - start) * 3 // 4 > allowed + 3:
        raise _too_large((len(uri) - start) * 3 // 4, allowed)
    try:
        return _filled(base64.b64decode("".join(uri[start:].split()), validate=True), allowed)
    except (binascii.Error, ValueError) as error:
        if isinstance(error, PictureError):
            raise
        raise PictureError("picture_unreadable", "the data URI is not valid base64") from None


def _filled(data: bytes, allowed: int) -> bytes:
    if not data:
        raise PictureError("picture_empty", "the picture holds 0 bytes")
    if len(data) > allowed:
        raise _too_large(len(data), allowed)
    return data


def _too_large(size: int, allowed: int) -> PictureError:
    return PictureError("picture_too_large", f"the picture holds {size:,} bytes, over the limit of {allowed:,}")
