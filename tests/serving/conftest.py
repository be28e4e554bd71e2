"""What the server's tests share: encoded pictures, requests, a server, and a listener that nobody may connect to."""

from __future__ import annotations

import base64
import io
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.serving.live import Live

import chiasm
from chiasm.search.adding import Adding, named_files
from chiasm.search.index import About, PictureIndex, probed
from chiasm.serving.engine import BatchingEngine
from chiasm.serving.local import LocalHost
from chiasm.serving.running import guarded_hosts
from chiasm.serving.settings import MediaLimits, Settings


def encoded(kind: str = "PNG", size: tuple[int, int] = (24, 16), colour: tuple[int, int, int] = (200, 30, 40)) -> bytes:
    """A small picture as a file's bytes."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def data_uri(data: bytes) -> str:
    """The bytes as clients send them."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


RED, BLUE = data_uri(encoded()), data_uri(encoded(colour=(20, 30, 220)))
COLOURS = {"red": (200, 30, 40), "green": (20, 200, 40), "blue": (20, 30, 220)}
CHAT = {"model": "llava", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def seen(*uris: str, text: str = "What is this?") -> list[dict[str, Any]]:
    """Messages that ask about pictures."""
    pictures = [{"type": "image_url", "image_url": {"url": uri}} for uri in uris]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]


def formed(schema: dict[str, Any]) -> dict[str, Any]:
    """A reply's form, as clients ask for it."""
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.fixture(scope="module")
def folders(tiny_folder: Callable[[str], Path]) -> dict[str, Path]:
    """A model that writes and one that embeds."""
    return {name: tiny_folder(name) for name in ("llava", "clip")}


@pytest.fixture(scope="module")
def live(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Live:
    """A server of both, with tight limits."""
    hosts = {name: LocalHost(BatchingEngine(chiasm.load(str(path)))) for name, path in folders.items()}
    settings = Settings(
        hosts=guarded_hosts("127.0.0.1", None), max_body=400_000, max_new_tokens=64, body_seconds=1.0,
        media=MediaLimits(max_bytes=100_000),
    )  # fmt: skip
    return Live(hosts, settings, tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def clip(tiny_folder: Callable[[str], Path]) -> chiasm.Model:
    return chiasm.load(str(tiny_folder("clip")))


@pytest.fixture(scope="module")
def index(clip: chiasm.Model, tmp_path_factory: pytest.TempPathFactory) -> PictureIndex:
    folder = tmp_path_factory.mktemp("indexed")
    for name, colour in COLOURS.items():
        Image.new("RGB", (24, 16), colour).save(folder / f"{name}.png")
    index = PictureIndex.create(folder / "index", About("clip", probed(clip)))
    paths = [str(path) for path in sorted(folder.glob("*.png"))]
    Adding(index, clip, lambda file: None, lambda file, error: None).run(named_files(paths, folder))
    return index


class Canary:
    """A listener on the loopback device that counts who connects and answers every request with a picture."""

    def __init__(self) -> None:
        self.connections = 0
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nConnection: close\r\n\r\n" + encoded()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            with peer:
                peer.recv(65536)
                peer.sendall(self.answer)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def canary() -> Iterator[Canary]:
    listener = Canary()
    yield listener
    listener.close()
