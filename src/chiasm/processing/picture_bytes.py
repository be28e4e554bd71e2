"""A picture's encoded bytes, from whatever source names them, within limits, before anything is decoded."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiasm.core.errors import PictureError
from chiasm.core.media import StoredPicture


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a picture may cost before a single pixel of it is decoded.

    Attributes:
        max_bytes: size of the encoded file.
        max_pixels: width times height; the default is Pillow's own warning level.
        max_side: width or height alone.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 89_478_485
    max_side: int = 65_535


def fetch(source: Any, limits: Limits) -> tuple[str, bytes]:
    """A name for people, and the encoded file.

    Args:
        source: bytes, a path, a `StoredPicture`, a data URI or bare base64.
        limits: the byte limit.

    Raises:
        PictureError: see `pictures.read_picture`.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "the bytes", _checked(bytes(source), "the bytes", limits)
    if isinstance(source, str) and source:
        scheme = source[:16].lower()
        if scheme.startswith("data:"):
            return "the data URI", _from_data_uri(source, limits)
        if scheme.startswith(("http:", "https:")):
            raise PictureError(
                "picture_remote",
                "a remote picture was given and remote pictures are not fetched",
                hint="download it first",
            )
        if scheme.startswith("file:") or "://" in scheme:
            raise PictureError(
                "picture_scheme", f"{short(source)} is a URL of a kind that is not read", hint="pass a plain path"
            )
    if isinstance(source, StoredPicture) and not isinstance(source, os.PathLike):
        return source.name, _checked(source.read_bytes(limits.max_bytes), source.name, limits)
    if source == "":
        raise PictureError("picture_empty", "an empty text is no picture", hint="pass a path, bytes or a data URI")
    if isinstance(source, (str, os.PathLike)):
        return _from_path(source, limits)
    raise PictureError(
        "picture_source_unknown",
        f"a {type(source).__name__} is not a picture",
        hint="pass a path, bytes, a data URI, a PIL picture or a uint8 array",
    )


def _from_path(source: str | os.PathLike[str], limits: Limits) -> tuple[str, bytes]:
    path, name = Path(source), short(os.fspath(source))
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise PictureError("picture_unreadable", f"{name} is not a regular file")
            if status.st_size > limits.max_bytes:
                raise _too_many_bytes(name, status.st_size, limits)
            return name, _checked(file.read(limits.max_bytes + 1), name, limits)
    except (FileNotFoundError, NotADirectoryError):
        if isinstance(source, str) and (data := _from_bare_base64(source, limits)):
            return "the base64 text", data
        raise PictureError("picture_missing", f"{name} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(source, str) and (data := _from_bare_base64(source, limits)):  # too long for a file name
            return "the base64 text", data
        if isinstance(error, PictureError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise PictureError("picture_unreadable", f"{name} can't be opened: {reason.lower()}") from None


def _open_at_once(path: str, flags: int) -> int:
    """Opening a pipe that nobody writes to must not wait."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _from_data_uri(uri: str, limits: Limits) -> bytes:
    head, comma, body = uri.partition(",")
    media, *options = head[len("data:") :].lower().split(";")
    if not comma or "base64" not in options or not media.startswith("image/"):
        raise PictureError(
            "picture_unknown_format",
            f"{short(head)} is not a base64 picture",
            hint="use data:image/png;base64,… with the encoded file after the comma",
        )
    _check_base64_size(body, "the data URI", limits)
    try:
        return _checked(_decode_base64(body), "the data URI", limits)
    except binascii.Error as error:
        raise PictureError("picture_unreadable", f"the data URI is not valid base64: {error}") from None


def _from_bare_base64(text: str, limits: Limits) -> bytes | None:
    """Bytes of a picture that came as base64 with nothing around it; None when it isn't one."""
    if len(text) < 32:
        return None
    _check_base64_size(text, "the base64 text", limits)
    try:
        data = _decode_base64(text)
    except (binascii.Error, ValueError):
        return None
    return data if sniff(data) else None


def _decode_base64(text: str) -> bytes:
    compact = "".join(text.split())
    return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)


def _check_base64_size(text: str, name: str, limits: Limits) -> None:
    if len(text) * 3 // 4 > limits.max_bytes + 3:
        raise _too_many_bytes(name, len(text) * 3 // 4, limits)


def _checked(data: bytes, name: str, limits: Limits) -> bytes:
    if not data:
        raise PictureError("picture_empty", f"{name} holds 0 bytes")
    if len(data) > limits.max_bytes:
        raise _too_many_bytes(name, len(data), limits)
    return data


def sniff(data: bytes) -> str | None:
    """Name of the allowed format that `data` begins like, or None."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith((b"II*\0", b"MM\0*")):
        return "TIFF"
    # "BM" alone begins many texts; the information header's length, at byte 14, is one of few.
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in (12, 16, 40, 52, 56, 64, 108, 124):
        return "BMP"
    return None


def _too_many_bytes(name: str, size: int, limits: Limits) -> PictureError:
    return PictureError("picture_too_large", f"{name} holds {size:,} bytes, over the limit of {limits.max_bytes:,}")


def short(text: str) -> str:
    text = text if len(text) <= 120 else f"{text[:60]}…{text[-40:]}"
    return text.encode("utf-8", "replace").decode().replace("\n", " ")
