"""A `chiasm serve` in a process of its own, and what its processes hold."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image


def miniatures(place: Path) -> dict[str, Path]:
    """Random miniatures: one that writes, one that embeds."""
    import chiasm

    folders = {name: place / name for name in ("llava", "clip")}
    for name, folder in folders.items():
        chiasm.new(name, tiny=True).save(folder)
    return folders


def indexed(model: Path, place: Path) -> list[str]:
    """Two indexes, ``mine`` and ``theirs``, of a few pictures by a model that embeds, as words for `chiasm serve`."""
    pictures = place / "pictures"
    pictures.mkdir()
    for name, colour in {"red": (200, 30, 40), "blue": (20, 30, 220)}.items():
        (pictures / f"{name}.png").write_bytes(encoded(colour=colour))
    folders = [place / "mine", place / "theirs"]
    for folder in folders:
        words = ["index", "add", str(folder), str(pictures), "--model", str(model)]
        subprocess.run([sys.executable, "-m", "chiasm", *words], check=True, capture_output=True)
    return [word for folder in folders for word in ("--index", str(folder))]


def encoded(kind: str = "PNG", size: tuple[int, int] = (48, 32), colour: tuple[int, int, int] = (200, 30, 40)) -> bytes:
    """A small picture as a file's bytes."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def data_uri(data: bytes) -> str:
    """The bytes as clients send them."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def chat(*uris: str, text: str = "What is this?", tokens: int = 8) -> dict[str, Any]:
    """A question about pictures."""
    parts = [{"type": "image_url", "image_url": {"url": uri}} for uri in uris]
    content = [*parts, {"type": "text", "text": text}]
    return {"model": "llava", "messages": [{"role": "user", "content": content}], "max_tokens": tokens}


class Served:
    """A running server.

    Args:
        folders: models by name.
        place: for the file that says when it is ready.
        words: further words of the command line.
    """

    def __init__(self, folders: dict[str, Path], place: Path, *words: str) -> None:
        ready = place / "ready"
        command = [sys.executable, "-m", "chiasm", "serve", *map(str, folders.values()), "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--ready-file", str(ready), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 300
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.05)
        self.url = ready.read_text().strip()
        self.port = int(self.url.rsplit(":", 1)[1])
        for _ in range(2):  # decoders and caches are there before anything is measured
            self.ask("/v1/chat/completions", chat(data_uri(encoded())))
        self.seen: set[int] = set(self.processes())
        self.files = self.count_files()

    def ask(self, path: str, body: Any = None, timeout: float = 120) -> tuple[int, dict[str, Any], float]:
        """One request: status (0 = no answer), document, seconds."""
        start = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            if body is None:
                connection.request("GET", path)
            else:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            document = json.loads(text) if "json" in answer.headers.get("Content-Type", "") else {}
            return answer.status, document, time.monotonic() - start
        except (OSError, http.client.HTTPException):
            return 0, {}, time.monotonic() - start
        finally:
            connection.close()

    def processes(self) -> list[int]:
        """The server and everything that it started."""
        found, left = [], [self.process.pid]
        while left:
            pid = left.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    left += [int(child) for child in (task / "children").read_text().split()]
        return found

    def memory(self) -> float:
        """MiB that all its processes hold to themselves."""
        total = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith(("Private_Clean", "Private_Dirty")):
                        total += int(line.split()[1])
        return total / 1024

    def count_files(self) -> int:
        """Open files of the server itself."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def engines(self) -> list[int]:
        """The processes that hold models."""
        return [pid for pid in self.processes() if b"engine_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def idle(self, seconds: float = 60) -> bool:
        """Wait until nothing is in hand; whether it came about."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status, document, _ = self.ask("/health")
            if status == 200 and document["waiting"] == document["active"] == 0:
                return True
            time.sleep(0.2)
        return False

    def leaks(self) -> dict[str, Any]:
        """What is left behind: more open files or processes than at the start; empty when nothing is."""
        if self.process.poll() is not None:
            return {"died": self.process.returncode}
        found: dict[str, Any] = {}
        deadline = time.monotonic() + 20  # connections that were given up are closed by clocks
        while time.monotonic() < deadline and self.count_files() > self.files + 4:
            time.sleep(0.5)
        if (files := self.count_files()) > self.files + 4:
            found["leaked_files"] = files - self.files
        if (processes := len(self.processes())) > len(self.seen) + 1:  # a second decoder may have been needed
            found["leaked_processes"] = processes - len(self.seen)
        return found

    def close(self) -> None:
        """End it as an operator would."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
