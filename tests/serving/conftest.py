"""What the server's tests share: encoded pictures, and a listener that nobody may connect to."""

from __future__ import annotations

import base64
import io
import socket
import threading
from collections.abc import Iterator

import pytest
from PIL import Image


def encoded(kind: str = "PNG", size: tuple[int, int] = (24, 16), colour: tuple[int, int, int] = (200, 30, 40)) -> bytes:
    """A small picture as a file's bytes."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def data_uri(data: bytes) -> str:
    """The bytes as clients send them."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


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
