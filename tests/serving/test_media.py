"""The media gate: what it takes, what it refuses, and what happens to the process that decodes."""

from __future__ import annotations

import base64
import io
import os
import random
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tests.serving.conftest import data_uri, encoded

from chiasm.core.errors import PictureError
from chiasm.serving.decoders import Decoders
from chiasm.serving.media import MediaGate, MediaRefusal
from chiasm.serving.settings import MediaLimits

LIMITS = MediaLimits(max_bytes=200_000, max_total_bytes=300_000, max_pixels=250_000, max_total_pixels=300_000)


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    pool = Decoders(LIMITS, 1)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def gate(decoders: Decoders) -> MediaGate:
    return MediaGate(LIMITS, decoders)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_allowed_format_comes_through(gate: MediaGate, kind: str) -> None:
    (picture,) = gate.open([data_uri(encoded(kind))])
    assert (picture.mode, picture.size) == ("RGB", (24, 16))
    assert all(abs(a - b) <= 6 for a, b in zip(picture.getpixel((3, 3)), (200, 30, 40), strict=True))


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that its few bytes don't hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (data_uri(b"%PDF-1.7 nothing to see"), "picture_unknown_format"),
        (data_uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "picture_unknown_format"),
        (data_uri(encoded()[:-30]), "picture_truncated"),
        (data_uri(b""), "picture_empty"),
        ("data:image/png;base64,@@@@", "picture_unreadable"),
        ("data:text/html,<p>", "picture_unknown_format"),
        (data_uri(png_of(60_000, 60_000)), "picture_too_large"),
        (data_uri(png_of(17_000, 2)), "picture_too_large"),
        (data_uri(bytes(250_000)), "picture_too_large"),
        ("http://example.com/a.png", "picture_remote"),
        ("HTTPS://example.com/a.png", "picture_remote"),
        ("file:///etc/hostname", "picture_scheme"),
        ("/etc/hostname", "picture_scheme"),
        ("ftp://example.com/a.png", "picture_scheme"),
    ],
)  # fmt: skip
def test_refusals_have_a_code_and_a_place(gate: MediaGate, source: str, code: str) -> None:
    start = time.monotonic()
    with pytest.raises(MediaRefusal) as refusal:
        gate.open([data_uri(encoded()), source])
    assert (refusal.value.code, refusal.value.index) == (code, 1)
    assert "/" not in refusal.value.what.replace("data:image/", "")
    assert time.monotonic() - start < 5


def test_totals_are_checked_over_the_request(gate: MediaGate) -> None:
    noise = Image.frombytes("RGB", (220, 220), random.Random(1).randbytes(220 * 220 * 3))
    file = io.BytesIO()
    noise.save(file, "PNG")
    with pytest.raises(MediaRefusal) as refusal:
        gate.open([data_uri(file.getvalue())] * 3)  # 3 × 145 kB against 300 kB
    assert (refusal.value.code, refusal.value.index) == ("picture_too_large", 2)
    with pytest.raises(MediaRefusal) as refusal:
        gate.open([data_uri(encoded(size=(400, 400)))] * 3)  # 3 × 160,000 pixels against 300,000
    assert (refusal.value.code, refusal.value.index) == ("picture_too_large", 1)
    with pytest.raises(MediaRefusal) as refusal:
        gate.open([data_uri(encoded())] * 65)
    assert refusal.value.code == "too_many_pictures"


def test_a_decoder_that_takes_too_long_is_killed_and_replaced() -> None:
    pool = Decoders(MediaLimits(decode_seconds=0.001), 1)
    with pytest.raises(PictureError) as refusal:
        pool.decode(encoded(), 10_000)
    assert refusal.value.code == "picture_too_slow"
    pool.limits = MediaLimits()
    assert pool.decode(encoded(), 10_000).size == (24, 16)
    pool.close()


def test_a_decoder_that_dies_is_replaced() -> None:
    pool = Decoders(MediaLimits(), 1)
    assert pool.decode(encoded(), 10_000).size == (24, 16)
    worker = pool._idle.get()
    assert worker is not None
    os.kill(worker.process.pid, 9)
    worker.process.poll = lambda: None  # type: ignore[method-assign]  # it dies between the check and the request
    pool._idle.put(worker)
    with pytest.raises(PictureError) as refusal:
        pool.decode(encoded(), 10_000)
    assert refusal.value.code == "picture_decoder_died"
    assert pool.decode(encoded(), 10_000).size == (24, 16)
    pool.close()


def test_memory_of_a_decoder_is_limited() -> None:
    pool = Decoders(MediaLimits(decode_memory=700 * 2**20, max_pixels=400_000_000, max_side=30_000), 1)
    with pytest.raises(PictureError) as refusal:
        pool.decode(png_of(19_000, 19_000), 400_000_000)  # a gigabyte once decoded
    assert refusal.value.code in {"picture_too_large", "picture_decoder_died", "picture_truncated"}
    assert pool.decode(encoded(), 10_000).size == (24, 16)
    pool.close()


def test_mutated_pictures_are_read_or_refused(gate: MediaGate) -> None:
    chance = random.Random(7)
    originals = [encoded(kind, (40, 30)) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]
    outcomes: dict[str, int] = {}
    for _ in range(240):
        data = bytearray(chance.choice(originals))
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(1, len(data)) :]
        try:
            (picture,) = gate.open([data_uri(bytes(data))])
            outcome = f"read as {picture.mode}"
        except MediaRefusal as refusal:
            outcome = refusal.code
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert outcomes["read as RGB"] > 10
    assert set(outcomes) <= {
        "read as RGB", "picture_unknown_format", "picture_truncated", "picture_unreadable", "picture_too_large",
        "picture_empty",
    }  # fmt: skip


def test_local_files_stay_in_their_folder(decoders: Decoders, tmp_path: Path) -> None:
    folder, outside = tmp_path / "shown", tmp_path / "hidden.png"
    folder.mkdir()
    outside.write_bytes(encoded())
    (folder / "a.png").write_bytes(encoded())
    (folder / "link.png").symlink_to(outside)
    os.mkfifo(folder / "pipe.png")
    gate = MediaGate(LIMITS, decoders, folder=folder)
    for good in ("a.png", str(folder / "a.png"), (folder / "a.png").as_uri()):
        assert gate.open([good])[0].size == (24, 16)
    bad = [
        "../hidden.png", str(outside), outside.as_uri(), "link.png", "pipe.png", "missing.png", ".", "a.png\0",
        "file://elsewhere/a.png", (folder / "a.png").as_uri().replace("shown", "shown/%2e%2e/shown/../../etc"),
    ]  # fmt: skip
    said = set()
    for source in bad:
        with pytest.raises(MediaRefusal) as refusal:
            gate.open([source])
        assert refusal.value.code == "media_file"
        said.add(refusal.value.what)
    assert len(said) == 1, "outside, missing and unreadable must look the same"


def test_wrapped_base64_is_read(gate: MediaGate) -> None:
    wrapped = "data:image/png;base64," + base64.encodebytes(encoded()).decode()
    assert gate.open([wrapped])[0].size == (24, 16)
