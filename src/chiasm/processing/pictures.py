"""The one place where pictures are read: whatever the source, out comes an upright, opaque, 8-bit RGB picture.

The format is decided by magic bytes from an allow-list, never by a name or a media type. Bytes, sides and
pixels are checked from the header, before anything is decoded. No setting of Pillow is changed, so threads
and other libraries in the process are left alone.

Three rules decide what a picture looks like to a model:

* **Orientation** (EXIF, or XMP) is applied, as every viewer does.
* **Transparency** is composited onto white. Dropping the alpha channel, as `Image.convert("RGB")` does, shows
  the model colours that nobody ever sees (usually black, sometimes noise). White is what a transparent logo or
  emoji was drawn for, and what transformers' processors do since version 5.
* **Deep pixels** are scaled: 16 bits down to 8 over the whole range. Pillow's own conversion clips at 255,
  which turns most 16-bit pictures white; transformers inherits that, so this is a known departure.
  Modes `I` and `F` don't record their range: values up to 255 are taken as 8-bit levels (Pillow's own
  convention), floats up to 1 as fractions, integers up to 65,535 as 16-bit levels.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from chiasm.core.errors import PictureError
from chiasm.core.media import LazyPicture
from chiasm.processing.picture_bytes import Limits, fetch, sniff

# Opened by class rather than by `Image.open`: no other decoder can be reached, and the only size limit is ours.
_DECODERS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
FORMATS = tuple(_DECODERS)
Colour = tuple[int, int, int]

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ALPHA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 322, 323


def read_picture(source: Any, limits: Limits | None = None, background: Colour | None = (255, 255, 255)) -> Image.Image:
    """Read one picture from any source as upright RGB.

    Args:
        source: a PIL picture; a `LazyPicture` or `StoredPicture`; a path (`str` or `Path`); encoded bytes; a
            `data:image/…;base64,` URI; bare base64; or a uint8 array (h, w), (h, w, 3) or (h, w, 4). The first frame of
            an animation is read.
        limits: byte and pixel limits, checked before decoding.
        background: RGB colour that transparency is composited onto; None drops the alpha channel, as
            checkpoints whose own preprocessing did that may need.

    Returns:
        A fully decoded picture of mode RGB. A PIL picture that already is one is returned as it is.

    Raises:
        PictureError: picture_missing, picture_empty, picture_too_large, picture_unknown_format,
            picture_truncated, picture_unreadable, picture_remote, picture_scheme or picture_source_unknown.
    """
    limits = limits or Limits()
    if isinstance(source, Image.Image):
        return _finish(source, "the picture", limits, background)
    if isinstance(source, np.ndarray):
        return _finish(_from_array(source), "the array", limits, background)
    if isinstance(source, LazyPicture):
        return _finish(source.picture(), "the picture", limits, background)
    name, data = fetch(source, limits)
    return _finish(_decode(data, name, limits), name, limits, background)


def encoded_picture(source: Any, limits: Limits | None = None) -> bytes | None:
    """The encoded file behind a source, as it is stored.

    Args:
        source: anything `read_picture` takes.
        limits: the byte limit.

    Returns:
        The bytes, which nothing has decoded or checked; None for a source that holds pixels.

    Raises:
        PictureError: as `read_picture`, for what can be told without decoding.
    """
    if isinstance(source, (Image.Image, np.ndarray, LazyPicture)):
        return None
    return fetch(source, limits or Limits())[1]


def picture_size(source: Any, limits: Limits | None = None) -> tuple[int, int]:
    """(width, height) of a picture as `read_picture` would give it; encoded pixels aren't decoded.

    Args:
        source: anything `read_picture` takes.
        limits: byte and pixel limits.

    Raises:
        PictureError: as `read_picture`, for what a header can tell.
    """
    limits = limits or Limits()
    if isinstance(source, (Image.Image, np.ndarray, LazyPicture)):
        return read_picture(source, limits).size
    name, data = fetch(source, limits)
    picture = _decode(data, name, limits, load=False)
    width, height = picture.size
    return (height, width) if _orientation(picture) >= 5 else (width, height)


def _from_array(array: np.ndarray) -> Image.Image:
    shape_ok = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not shape_ok:
        raise PictureError(
            "picture_source_unknown",
            f"an array of shape {tuple(array.shape)} and type {array.dtype} is not a picture",
            hint="pass uint8 of shape (height, width, 3)",
        )
    if array.size == 0:
        raise PictureError("picture_empty", f"an array of shape {tuple(array.shape)} holds 0 pixels")
    return Image.fromarray(np.ascontiguousarray(array))


# --- from bytes to a checked, still undecoded picture -------------------------------------------------------


def _decode(data: bytes, name: str, limits: Limits, *, load: bool = True) -> Image.Image:
    kind = sniff(data)
    if kind is None:
        raise PictureError(
            "picture_unknown_format",
            f"{name} begins with {data[:8]!r}, which is none of {', '.join(FORMATS)}",
            hint="convert it to PNG or JPEG",
        )
    try:
        if kind == "WEBP":  # its decoder allocates the whole canvas as it opens
            _check_size(_webp_size(data), name, limits)
        picture = _DECODERS[kind](io.BytesIO(data))
        _check_size(picture.size, name, limits)
        if isinstance(picture, TiffImagePlugin.TiffImageFile):
            tags = picture.tag_v2
            _check_size((tags.get(_TIFF_TILE_WIDTH, 1), tags.get(_TIFF_TILE_LENGTH, 1)), f"a tile of {name}", limits)
        if load:
            picture.load()
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise PictureError("picture_too_large", f"{name} is too large to decode: {_reason(error)}") from None
    except Exception as error:  # decoders raise whatever the broken bytes led them to
        raise _decoding_error(error, data, kind, name) from None
    return picture


def _check_size(size: tuple[int, int], name: str, limits: Limits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise PictureError("picture_empty", f"{name} measures {width}×{height} pixels")
    if width * height > limits.max_pixels:
        raise PictureError(
            "picture_too_large",
            f"{name} measures {width}×{height}, {width * height:,} pixels, over the limit of {limits.max_pixels:,}",
            hint="scale it down first",
        )
    if max(size) > limits.max_side:
        raise PictureError(
            "picture_too_large",
            f"{name} measures {width}×{height}, with a side over the limit of {limits.max_side:,} pixels",
            hint="scale it down first",
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", data[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _decoding_error(error: Exception, data: bytes, kind: str, name: str) -> PictureError:
    reason = _reason(error)
    if "Decompressed data too large" in reason or "MAX_TEXT" in reason:
        return PictureError("picture_too_large", f"{name} is a {kind} whose text inflates without end")
    if "truncated" in reason.lower() or isinstance(error, EOFError) or _ends_early(data, kind):
        return PictureError(
            "picture_truncated",
            f"{name} is a {kind} that ends after {len(data):,} bytes, too early",
            hint="copy it again",
        )
    return PictureError("picture_unreadable", f"{name} is a {kind} that can't be decoded: {reason}")


def _ends_early(data: bytes, kind: str) -> bool:
    """Whether the container's own end is missing; asked only once decoding has failed."""
    if kind == "PNG":
        return b"IEND" not in data[-64:]
    if kind == "JPEG":
        return b"\xff\xd9" not in data[-1024:]
    if kind == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if kind == "GIF":
        return not data.rstrip(b"\0").endswith(b"\x3b")
    if kind == "BMP":
        return int.from_bytes(data[2:6], "little") > len(data)
    (directory,) = struct.unpack("<L" if data[:2] == b"II" else ">L", data[4:8].ljust(4, b"\xff"))
    return directory + 2 > len(data)  # TIFF


# --- from a decoded picture to upright RGB ------------------------------------------------------------------


def _finish(picture: Image.Image, name: str, limits: Limits, background: Colour | None) -> Image.Image:
    _check_size(picture.size, name, limits)
    try:
        picture.load()  # pictures that the caller opened may still be undecoded
    except Exception as error:
        code = "picture_truncated" if "truncated" in str(error).lower() else "picture_unreadable"
        raise PictureError(code, f"{name} can't be decoded: {_reason(error)}") from None
    turn = _UPRIGHT.get(_orientation(picture))
    if turn is None and picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    upright = _to_rgb(picture, name, background)
    if turn is not None:
        upright = upright.transpose(turn)
    upright.info = {}  # the orientation in it has been applied: reading the result again must change nothing
    return upright


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block is no reason to refuse a picture that decodes
        return 1


def _to_rgb(picture: Image.Image, name: str, background: Colour | None) -> Image.Image:
    if picture.mode.startswith("I;16"):
        picture = _from_16_bit(picture, picture.info.get("transparency"))
    elif picture.mode in ("I", "F"):
        picture = _from_unbounded(picture, name)
    transparent = picture.mode in _ALPHA_MODES or picture.info.get("transparency") is not None
    try:
        if not transparent:
            return picture.convert("RGB")
        if picture.mode == "La":  # Pillow knows one way out of premultiplied grey
            picture = picture.convert("LA")
        layers = picture.convert("RGBA")
        if background is None:
            return layers.convert("RGB")
        canvas = Image.new("RGBA", layers.size, (*background, 255))
        return Image.alpha_composite(canvas, layers).convert("RGB")
    except Exception as error:
        raise PictureError("picture_unreadable", f"{name} has mode {picture.mode}: {_reason(error)}") from None


def _from_16_bit(picture: Image.Image, transparent_level: Any) -> Image.Image:
    levels = np.asarray(picture).astype(np.uint32)  # (h, w)
    grey = ((levels * 255 + 32_767) // 65_535).astype(np.uint8)
    if not isinstance(transparent_level, int):
        return Image.fromarray(grey)
    alpha = np.where(levels == transparent_level, 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))


def _from_unbounded(picture: Image.Image, name: str) -> Image.Image:
    """Modes I and F to 8-bit grey, by the range that their values show."""
    levels = np.asarray(picture)  # (h, w)
    low, high = float(levels.min()), float(levels.max())
    top = 1.0 if picture.mode == "F" and high <= 1 else 255.0 if high <= 255 else 65_535.0
    if not (low >= 0 and high <= top):  # NaN fails both
        raise PictureError(
            "picture_unreadable",
            f"{name} has pixels of mode {picture.mode} from {low:g} to {high:g}, a range with no known black and white",
            hint="convert it to 8 or 16 bits first",
        )
    if top == 255.0:
        return picture.convert("L")
    return Image.fromarray(np.rint(levels.astype(np.float64) * (255.0 / top)).astype(np.uint8))


# --- words --------------------------------------------------------------------------------------------------


def _reason(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:160]
