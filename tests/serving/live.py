"""A server in a thread of the test's own process, and a client that hides nothing."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from chiasm.serving.app import create_app
from chiasm.serving.running import listen
from chiasm.serving.settings import Settings


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something to come about."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


class Live:
    """A server in a thread of this process."""

    def __init__(
        self, hosts: Mapping[str, Any], settings: Settings, folder: Path, indexes: Mapping[str, Any] | None = None
    ) -> None:
        self.hosts, ready = dict(hosts), folder / f"ready-{id(self)}"
        app = create_app(hosts, settings, indexes)
        threading.Thread(target=listen, args=(app, "127.0.0.1", 0), kwargs={"ready_file": ready}, daemon=True).start()
        until(ready.exists, 30)
        self.url = ready.read_text().strip()
        self.port = int(self.url.rsplit(":", 1)[1])

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, sent, {**kind, **(headers or {})})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        shown = json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text
        return answer.status, dict(answer.headers), shown
