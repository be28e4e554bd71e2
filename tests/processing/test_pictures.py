"""Every way a picture comes in, and every way it can be broken."""

from __future__ import annotations

import base64
import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from tests.gallery import encoded, exif_rotated, gallery, palette_with_transparency, rgb, with_mode

from chiasm.core.errors import PictureError
from chiasm.processing.picture_bytes import Limits, sniff
from chiasm.processing.pictures import FORMATS, read_picture

PLAIN = rgb(40, 30)


def levels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def refused(source: Any, **options: Any) -> PictureError:
    with pytest.raises(PictureError) as caught:
        read_picture(source, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, rows: bytes = b"", extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


# --- sources --------------------------------------------------------------------------------------------------


def test_every_source_gives_the_same_picture(tmp_path: Path) -> None:
    data = encoded(PLAIN, "PNG")
    path = tmp_path / "no-extension"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    wrapped = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    sources = [PLAIN, path, str(path), data, bytearray(data), memoryview(data), np.asarray(PLAIN)]
    sources += [f"data:image/png;base64,{text}", f"DATA:image/jpeg;base64,{wrapped}", text, text.rstrip("=")]
    for source in sources:
        read = read_picture(source)
        assert read.mode == "RGB" and np.array_equal(levels(read), levels(PLAIN))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_by_its_bytes_whatever_its_name(kind: str, tmp_path: Path) -> None:
    data = encoded(PLAIN, kind)
    assert sniff(data) == kind
    path = tmp_path / "picture.txt"
    path.write_bytes(data)
    wanted = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.array_equal(levels(read_picture(path)), levels(wanted))


def test_a_plain_picture_is_not_copied() -> None:
    assert read_picture(PLAIN) is PLAIN


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("https://example.org/a.png", "picture_remote"),
        ("HTTP://example.org/a.png", "picture_remote"),
        ("file:///etc/passwd", "picture_scheme"),
        ("file:/etc/passwd", "picture_scheme"),
        ("ftp://example.org/a.png", "picture_scheme"),
        ("data:text/html;base64,AAAA", "picture_unknown_format"),
        ("data:image/png,notbase64", "picture_unknown_format"),
        ("data:image/png;base64,####", "picture_unreadable"),
        ("data:image/png;base64,", "picture_empty"),
        ("nowhere/at/all.png", "picture_missing"),
        ("a\0b.png", "picture_unreadable"),
        ("x" * 5000, "picture_unreadable"),
        ("", "picture_empty"),
        (b"", "picture_empty"),
        (b"once upon a time", "picture_unknown_format"),
        (b"BM, said the text, is how it begins", "picture_unknown_format"),
        (None, "picture_source_unknown"),
        (7, "picture_source_unknown"),
        (np.zeros((4, 4, 3)), "picture_source_unknown"),
        (np.zeros((4, 4, 2), np.uint8), "picture_source_unknown"),
        (np.zeros((0, 4, 3), np.uint8), "picture_empty"),
    ],
)
def test_bad_sources_are_refused_by_name(source: Any, code: str) -> None:
    assert refused(source).code == code


def test_files_that_are_not_pictures(tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("these are notes")
    assert refused(text).code == "picture_unknown_format"
    assert "these" in str(refused(text)) and "PNG" in str(refused(text))
    empty = tmp_path / "empty.png"
    empty.touch()
    assert refused(empty).code == "picture_empty"
    assert refused(tmp_path).code == "picture_unreadable"
    os.mkfifo(tmp_path / "pipe.png")
    assert refused(tmp_path / "pipe.png").code == "picture_unreadable"  # and doesn't wait for a writer


# --- limits, before decoding ----------------------------------------------------------------------------------


def test_bytes_are_limited_for_every_source(tmp_path: Path) -> None:
    data = encoded(PLAIN, "BMP")
    (tmp_path / "a.bmp").write_bytes(data)
    uri = "data:image/bmp;base64," + base64.b64encode(data).decode()
    for source in (data, tmp_path / "a.bmp", uri):
        assert refused(source, limits=Limits(max_bytes=1000)).code == "picture_too_large"
        assert read_picture(source, Limits(max_bytes=len(data))).size == PLAIN.size


@pytest.mark.parametrize("kind", FORMATS)
def test_pixels_are_limited_from_the_header(kind: str) -> None:
    error = refused(encoded(PLAIN, kind), limits=Limits(max_pixels=1199))
    assert error.code == "picture_too_large" and "40×30" in str(error) and "1,199" in str(error)
    assert refused(encoded(PLAIN, kind), limits=Limits(max_side=39)).code == "picture_too_large"
    assert read_picture(encoded(PLAIN, kind), Limits(max_pixels=1200, max_side=40)).size == (40, 30)


def test_bombs_are_refused_before_they_go_off() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # not even a warning from Pillow
        assert refused(png(60_000, 60_000)).code == "picture_too_large"
        assert refused(png(2**31 - 1, 2**31 - 1)).code == "picture_too_large"
        assert refused(png(70_000, 1)).code == "picture_too_large"
        tiff = bytearray(encoded(PLAIN, "TIFF"))
        at = tiff.index(struct.pack("<HHI", 256, 4, 1)) if struct.pack("<HHI", 256, 4, 1) in tiff else None
        at = at or tiff.index(struct.pack("<HHI", 256, 3, 1))
        tiff[at : at + 12] = struct.pack("<HHII", 256, 4, 1, 3_000_000_000)
        assert refused(bytes(tiff)).code == "picture_too_large"
        webp = encoded(PLAIN, "WEBP", lossless=True)
        assert webp[12:16] == b"VP8L"
        huge = webp[:21] + b"\xff\xff\xff\x0f" + webp[25:]  # 16384×16384
        assert refused(huge).code == "picture_too_large"
    text = chunk(b"zTXt", b"comment\0\0" + zlib.compress(b"x" * 2**26))
    assert refused(png(1, 1, rows=b"\0abc", extra=text)).code == "picture_too_large"


def test_pillows_settings_are_left_alone() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    for picture in gallery().values():
        read_picture(picture, Limits(max_pixels=2**40))
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == before == (89_478_485, False)


# --- broken files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_truncated_picture_says_so(kind: str, share: float) -> None:
    data = encoded(rgb(120, 90), kind)
    error = refused(data[: int(len(data) * share)])
    assert error.code == "picture_truncated" and f"{int(len(data) * share):,} bytes" in str(error)


def test_a_truncated_picture_that_the_caller_opened(tmp_path: Path) -> None:
    data = encoded(rgb(120, 90), "JPEG")
    assert refused(Image.open(io.BytesIO(data[: len(data) // 2]))).code == "picture_truncated"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FORMATS), st.data())
def test_damage_never_escapes_as_another_error(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(encoded(PLAIN, kind))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert read_picture(bytes(damaged), Limits(max_pixels=10**6)).mode == "RGB"
        except PictureError as error:
            assert error.code.startswith("picture_")


# --- what the pixels become -----------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_once(orientation: int, kind: str) -> None:
    read = read_picture(exif_rotated(orientation, kind))
    assert read.size == ((100, 150) if orientation >= 5 else (150, 100))
    assert np.array_equal(levels(read_picture(read)), levels(read))
    if kind == "PNG":
        turns = {1: 0, 3: 2, 6: 3, 8: 1}
        if orientation in turns:
            wanted = np.rot90(levels(rgb(150, 100, seed=orientation)), turns[orientation])
            assert np.array_equal(levels(read), wanted)


def test_transparency_is_composited_on_white_unless_told() -> None:
    clear = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    clear.putpixel((1, 0), (10, 20, 30, 255))
    assert levels(read_picture(clear)).tolist() == [[[255] * 3, [10, 20, 30]]]
    assert levels(read_picture(clear, background=(0, 0, 0)))[0, 0].tolist() == [0, 0, 0]
    assert levels(read_picture(clear, background=None))[0, 0].tolist() == [10, 20, 30]


def test_every_mode_comes_out_as_rgb() -> None:
    for name, picture in gallery().items():
        read = read_picture(picture)
        assert read.mode == "RGB" and read.size == picture.size, name
        assert "transparency" not in read.info


def test_premultiplied_grey_and_palette_transparency() -> None:
    grey = with_mode("LA")
    difference = np.abs(levels(read_picture(grey.convert("La"))) - levels(read_picture(grey)))
    assert difference.max() <= 2  # premultiplying rounds
    gif = palette_with_transparency()
    wanted = Image.new("RGB", gif.size, "white")
    wanted.paste(gif.convert("RGBA"), mask=gif.convert("RGBA").getchannel("A"))
    assert np.array_equal(levels(read_picture(gif)), levels(wanted))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    ramp = np.linspace(0, 65_535, 256).astype(np.uint16).reshape(16, 16)
    read = levels(read_picture(encoded(Image.fromarray(ramp), kind)))
    assert np.array_equal(read[..., 0].ravel(), np.arange(256)) and (read == read[..., :1]).all()


def test_sixteen_bits_with_a_transparent_level() -> None:
    rows = b"\0" + struct.pack(">2H", 1000, 65_535 // 2)
    data = png(2, 1, depth=16, colour=0, rows=rows, extra=chunk(b"tRNS", struct.pack(">H", 1000)))
    assert levels(read_picture(data))[0, :, 0].tolist() == [255, 127]


def test_modes_without_a_range_are_read_by_what_they_hold() -> None:
    ramp = np.arange(256, dtype=np.int32).reshape(16, 16)
    assert np.array_equal(levels(read_picture(Image.fromarray(ramp)))[..., 0], ramp)
    assert np.array_equal(levels(read_picture(Image.fromarray(ramp * 257)))[..., 0], ramp)
    assert np.array_equal(levels(read_picture(Image.fromarray((ramp / 255).astype(np.float32))))[..., 0], ramp)
    assert np.array_equal(levels(read_picture(Image.fromarray(ramp.astype(np.float32))))[..., 0], ramp)
    for broken in (ramp - 5, ramp * 100_000, np.full((4, 4), np.nan, np.float32)):
        assert refused(Image.fromarray(broken)).code == "picture_unreadable"


def test_cmyk_jpeg_is_not_inverted() -> None:
    light = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    assert levels(read_picture(encoded(light, "JPEG"))).min() > 250


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.abs(levels(read_picture(data)) - [255, 0, 0]).max() <= 3


def test_many_threads_read_the_same() -> None:
    data = [exif_rotated(orientation, kind) for orientation in (1, 6) for kind in ("JPEG", "PNG", "WEBP")] * 8
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda item: levels(read_picture(item)), data))
    assert all(np.array_equal(one, levels(read_picture(item))) for one, item in zip(together, data, strict=True))
