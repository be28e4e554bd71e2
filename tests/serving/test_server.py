"""The whole server over its socket: its own routes, the key, overload, leaving, and the command."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.serving.conftest import CHAT, RED, encoded, seen
from tests.serving.live import Live, until

import chiasm
from chiasm.core.errors import ConfigError
from chiasm.serving.engine import BatchingEngine
from chiasm.serving.local import LocalHost
from chiasm.serving.running import guarded_hosts
from chiasm.serving.settings import Settings

KEY = "k-0123456789"


def test_classify_equals_the_library(live: Live) -> None:
    status, _, answer = live.ask("POST", "/v1/classify", {"model": "clip", "input": [RED], "labels": ["red", "blue"]})
    expected = live.hosts["clip"].engine.model.classify([encoded()], ["red", "blue"])[0]
    assert status == 200
    assert [(item["label"], item["probability"]) for item in answer["data"][0]["labels"]] == [
        (name, pytest.approx(p, abs=1e-6)) for name, p in expected
    ]


def test_health_metrics_and_document(live: Live) -> None:
    status, _, health = live.ask("GET", "/health")
    assert (status, health["status"]) == (200, "ok")
    for _ in range(2):
        assert (
            live.ask("POST", "/v1/chat/completions", {"model": "llava", "messages": seen(RED), "max_tokens": 1})[0]
            == 200
        )
    status, _, text = live.ask("GET", "/metrics")
    for cache in ("pictures", "prompts"):
        assert f'chiasm_cache_misses_total{{cache="{cache}",model="llava"}}' in text.decode()
    assert float(re.findall(r'chiasm_cache_hits_total{cache="prompts",model="llava"} (.*)', text.decode())[0]) >= 1
    assert status == 200
    for name in (b'chiasm_active_sequences{model="llava"}', b"chiasm_queue_depth", b"chiasm_requests_total"):
        assert name in text
    status, _, document = live.ask("GET", "/openapi.json")
    assert set(document["paths"]) == {
        "/v1/chat/completions", "/v1/embeddings", "/v1/classify", "/v1/models", "/v1/models/{model}", "/health",
        "/metrics", "/", "/v1/ground", "/v1/inspect", "/v1/images/search", "/openapi.json",
    }  # fmt: skip


def test_the_page_loads_nothing_from_elsewhere(live: Live) -> None:
    status, headers, html = live.ask("GET", "/")
    assert status == 200 and headers["content-type"].startswith("text/html")
    text = html.decode()
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)|https?://|@import""", text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    told = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{told}'" in headers["content-security-policy"]
    fields = set(re.findall(r'<(?:input|select|textarea) id="(\w+)"', text))
    assert fields - set(re.findall(r'<label[^>]* for="(\w+)"', text)) == set(), "every field has a label"


def test_the_key_guards_every_route_but_health(folders: dict[str, Path], tmp_path: Path) -> None:
    hosts = {"clip": LocalHost(BatchingEngine(chiasm.load(str(folders["clip"]))))}
    guarded = Live(hosts, Settings(api_key=KEY), tmp_path)
    assert guarded.ask("GET", "/health")[0] == guarded.ask("GET", "/")[0] == 200
    for path in (
        "/v1/models",
        "/metrics",
        "/openapi.json",
        "/v1/nothing",
        "/health/",
        "//health",
        "/health/../metrics",
    ):
        for wrong in ({}, {"Authorization": "Bearer "}, {"Authorization": f"Basic {KEY}"}, {"Authorization": KEY}):
            status, _, answer = guarded.ask("GET", path, headers=wrong)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key"), path
    assert guarded.ask("GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"})[0] == 200


def test_public_addresses_need_a_key() -> None:
    for host in ("0.0.0.0", "::", "", "192.0.2.7"):
        with pytest.raises(ConfigError) as refusal:
            guarded_hosts(host, None)
        assert refusal.value.code == "serve_public"
        assert guarded_hosts(host, KEY) == ()
    with pytest.raises(ConfigError, match="0 visible"):
        guarded_hosts("127.0.0.1", " ")


@pytest.fixture(scope="module")
def narrow(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Live, threading.Semaphore]:
    """A server with room for two, whose model waits for leave at every step."""
    model, steps = chiasm.load(str(folders["llava"])), threading.Semaphore(0)
    write = model.module.write

    def waiting(*given: Any, **how: Any) -> Any:
        steps.acquire(timeout=20)
        return write(*given, **how)

    model.module.write = waiting
    hosts = {"llava": LocalHost(BatchingEngine(model, max_queue=2, max_batch=1))}
    return Live(hosts, Settings(max_queue=2), tmp_path_factory.mktemp("narrow")), steps


def test_overload_and_leaving(narrow: tuple[Live, threading.Semaphore]) -> None:
    live, steps = narrow
    engine, body = live.hosts["llava"].engine, {**CHAT, "max_tokens": 8}
    text = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    peers = []
    for wanted in (lambda h: h.active == 1, lambda h: h.waiting == 1, lambda h: h.waiting == 2):
        peers.append(socket.create_connection(("127.0.0.1", live.port), 10))
        peers[-1].sendall(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)
        until(lambda wanted=wanted: wanted(engine.health()))
    status, headers, answer = live.ask("POST", "/v1/chat/completions", body)
    assert (status, answer["error"]["code"]) == (429, "engine_busy") and int(headers["retry-after"]) >= 1
    assert live.ask("GET", "/health")[2] == {"status": "ok", "waiting": 2, "active": 1}
    for peer in peers:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
    steps.release(1000)
    until(lambda: engine.health().active == 0 and engine.health().waiting == 0)
    assert live.ask("POST", "/v1/chat/completions", body)[0] == 200


def test_leaving_a_stream_stops_it(narrow: tuple[Live, threading.Semaphore]) -> None:
    live, steps = narrow
    while steps.acquire(blocking=False):
        pass
    steps.release(3)
    engine: Any = live.hosts["llava"].engine
    with (
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client,
        client.chat.completions.create(**{**CHAT, "max_tokens": 30}, stream=True) as stream,
    ):
        next(iter(stream))
        (job,) = engine._writing.values()
        assert not job.cancelled.is_set()
    until(job.cancelled.is_set)
    steps.release(1000)
    until(lambda: engine.health().active == 0)


def test_the_command(folders: dict[str, Path], tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    ready.write_text("http://stale")
    words = ["serve", str(folders["clip"]), "--port", "0", "--ready-file", str(ready), "--json", "--allow-local-media"]
    process = subprocess.Popen(
        [sys.executable, "-m", "chiasm", *words, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: process.poll() is not None or (ready.exists() and "stale" not in ready.read_text()), 90)
    assert process.poll() is None, process.communicate()
    port = int(ready.read_text().strip().rsplit(":", 1)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    (tmp_path / "a.png").write_bytes(encoded())
    asked = {"model": "clip", "input": {"type": "image", "url": "a.png"}, "encoding_format": "base64"}
    connection.request("POST", "/v1/embeddings", json.dumps(asked), {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    assert len(base64.b64decode(answer["data"][0]["embedding"])) % 4 == 0
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert json.loads(out) == {"url": f"http://127.0.0.1:{port}", "models": ["clip"]}
    assert not ready.exists() and "Traceback" not in err


def test_the_command_refuses_a_public_address(folders: dict[str, Path]) -> None:
    words = ["serve", str(folders["clip"]), "--host", "0.0.0.0", "--json"]
    surroundings = {name: value for name, value in os.environ.items() if name != "CHIASM_API_KEY"}
    done = subprocess.run([sys.executable, "-m", "chiasm", *words], capture_output=True, text=True, env=surroundings)
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (1, "serve_public")


def test_without_its_packages_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['fastapi'] = None; from chiasm.cli import main; sys.exit(main(['serve', 'nano']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and 'pip install "chiasm[serve]"' in done.stderr
