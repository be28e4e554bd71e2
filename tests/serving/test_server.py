"""The whole server over its socket: the official client, OpenAI's shapes, the doors, overload, leaving and ending."""

from __future__ import annotations

import base64
import contextlib
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
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.serving.conftest import data_uri, encoded
from tests.serving.live import Live, until

import chiasm
from chiasm.core.errors import ConfigError
from chiasm.core.messages import parse_conversation
from chiasm.serving import connections
from chiasm.serving.doors import form
from chiasm.serving.engine import BatchingEngine
from chiasm.serving.local import LocalHost
from chiasm.serving.running import guarded_hosts
from chiasm.serving.settings import MediaLimits, Settings

KEY = "k-0123456789"
RED, BLUE = data_uri(encoded()), data_uri(encoded(colour=(20, 30, 220)))


@pytest.fixture(scope="module")
def folders(tiny_folder: Callable[[str], Path]) -> dict[str, Path]:
    return {name: tiny_folder(name) for name in ("llava", "clip")}


@pytest.fixture(scope="module")
def live(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Live:
    hosts = {name: LocalHost(BatchingEngine(chiasm.load(str(path)))) for name, path in folders.items()}
    settings = Settings(
        hosts=guarded_hosts("127.0.0.1", None), max_body=400_000, max_new_tokens=64, body_seconds=1.0,
        media=MediaLimits(max_bytes=100_000),
    )  # fmt: skip
    return Live(hosts, settings, tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def seen(*uris: str, text: str = "What is this?") -> list[dict[str, Any]]:
    pictures = [{"type": "image_url", "image_url": {"url": uri}} for uri in uris]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]


# --- the official client -------------------------------------------------------------------------------------


def test_chat_equals_the_library(client: openai.OpenAI, live: Live) -> None:
    done = client.chat.completions.create(model="llava", messages=seen(RED), max_tokens=6, logprobs=True)
    (expected,) = live.hosts["llava"].engine.model.generate([[*seen(RED)]], max_new_tokens=6)
    choice = done.choices[0]
    assert (choice.message.content, choice.finish_reason) == (expected.text, expected.finish_reason)
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert [entry.logprob for entry in choice.logprobs.content] == pytest.approx(expected.logprobs, abs=1e-5)
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (
        expected.usage.prompt_tokens, expected.usage.completion_tokens,
    )  # fmt: skip


def test_the_most_probable_tokens_of_each_place(client: openai.OpenAI, live: Live) -> None:
    asked: dict[str, Any] = {"model": "llava", "messages": seen(RED), "max_tokens": 6, "logprobs": True}
    content = client.chat.completions.create(**asked, top_logprobs=4).choices[0].logprobs.content  # type: ignore[union-attr]
    model = live.hosts["llava"].engine.model
    batch = model.processor([parse_conversation([*seen(RED)])])
    expected = model.module(batch)[0, -1].log_softmax(-1).topk(4)
    assert [told.logprob for told in content[0].top_logprobs] == pytest.approx(expected.values.tolist(), abs=1e-5)
    for place in content:
        first = place.top_logprobs[0]
        assert (first.token, first.logprob, first.bytes) == (place.token, place.logprob, place.bytes)  # greedy
        assert len(place.top_logprobs) == 4 and bytes(place.bytes).decode("utf-8", "replace") == place.token
    warm = client.chat.completions.create(**asked, top_logprobs=20, temperature=2.0, seed=1).choices[0]
    assert any(place.token != place.top_logprobs[0].token for place in warm.logprobs.content)  # drawn, not chosen
    assert client.chat.completions.create(**asked, top_logprobs=0).choices[0].logprobs.content[0].top_logprobs == []
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(**{**asked, "logprobs": False}, top_logprobs=2)
    assert (refusal.value.code, refusal.value.param) == ("request_invalid", "top_logprobs")


def test_a_stream_is_the_same_reply_in_pieces(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "llava", "messages": seen(RED, BLUE), "max_tokens": 8}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason


def test_the_form_that_is_asked_for(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"kind": {"enum": ["cat", "dog"]}}, "required": ["kind"]}
    schema["additionalProperties"] = False
    asked: dict[str, Any] = {"model": "llava", "messages": seen(RED), "max_tokens": 40, "temperature": 1.0, "seed": 3}
    done = client.chat.completions.create(**asked, response_format=formed(schema))
    assert json.loads(done.choices[0].message.content or "")["kind"] in ("cat", "dog")
    loose = client.chat.completions.create(**asked, response_format={"type": "json_object"}).choices[0]
    assert (loose.message.content or "").startswith("{")
    assert loose.finish_reason == "length" or isinstance(json.loads(loose.message.content or ""), dict)


def test_n_and_seeds(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "llava", "messages": seen(RED), "max_tokens": 8, "temperature": 1.5, "n": 3}
    one, two = (client.chat.completions.create(**asked, seed=5) for _ in range(2))
    texts = [choice.message.content for choice in one.choices]
    assert texts == [choice.message.content for choice in two.choices]
    assert len(set(texts)) > 1 and [choice.index for choice in one.choices] == [0, 1, 2]
    first = client.chat.completions.create(**{**asked, "n": 1}, seed=6)
    assert first.choices[0].message.content == texts[1]


def test_stop_ends_a_reply(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="llava", messages=seen(RED), max_tokens=12).choices[0].message.content
    assert whole
    stop = whole[len(whole) // 2 :][:2]
    cut = client.chat.completions.create(model="llava", messages=seen(RED), max_tokens=12, stop=[stop]).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.find(stop)], "stop")


def test_embeddings_of_texts_and_pictures(client: openai.OpenAI, live: Live) -> None:
    model = live.hosts["clip"].engine.model
    made = client.embeddings.create(model="clip", input=["a cat", "a dog"])  # base64 underneath
    plain = client.embeddings.create(model="clip", input=["a cat", "a dog"], encoding_format="float")
    expected = model.embed_texts(["a cat", "a dog"])
    for answer in (made, plain):
        for item, row in zip(answer.data, expected.tolist(), strict=True):
            assert item.embedding == pytest.approx(row, abs=1e-6)
    mixed: Any = [{"type": "image_url", "image_url": {"url": RED}}, "a cat"]
    rows = client.embeddings.create(model="clip", input=mixed, encoding_format="float").data
    assert rows[0].embedding == pytest.approx(model.embed_images([encoded()])[0].tolist(), abs=1e-5)
    assert rows[1].embedding == pytest.approx(expected[0].tolist(), abs=1e-5)


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"llava", "clip"}
    assert client.models.retrieve("clip").id == "clip"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_errors_reach_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=seen(RED))
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="llava", messages=seen(RED, data_uri(b"%PDF-1.4")))
    assert (bad.value.code, bad.value.param) == ("picture_unknown_format", "messages[0].content[1]")
    with pytest.raises(openai.BadRequestError) as tools:
        client.chat.completions.create(model="llava", messages=seen(RED), tools=[{"type": "function"}])  # type: ignore[list-item]
    assert (tools.value.code, tools.value.param) == ("parameter_unsupported", "tools")


# --- other routes --------------------------------------------------------------------------------------------


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
        "/metrics", "/", "/v1/ground", "/v1/inspect", "/openapi.json",
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


# --- refusals ------------------------------------------------------------------------------------------------

CHAT = {"model": "llava", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def formed(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"{", 400, "body_malformed", None),
        (b"", 400, "request_invalid", None),
        (b"\xff\xfe", 400, "body_malformed", None),
        (b"[" * 5000, 400, "body_too_deep", None),
        (b'{"a":' * 40 + b"1" + b"}" * 40, 400, "body_too_deep", None),
        ({**CHAT, "temperature": 9}, 400, "request_invalid", "temperature"),
        ({**CHAT, "temperature": float("nan")}, 400, "request_invalid", "temperature"),
        ({**CHAT, "n": 10**30}, 400, "request_invalid", "n"),
        ({**CHAT, "max_tokens": 65}, 400, "request_invalid", "max_tokens"),
        ({**CHAT, "messages": []}, 400, "request_invalid", "messages"),
        ({**CHAT, "messages": [{"role": "root", "content": "x"}]}, 400, "request_invalid", "messages[0].role"),
        ({**CHAT, "model": "clip"}, 400, "capability_missing", "model"),
        ({**CHAT, "messages": seen("http://127.0.0.1/a.png")}, 400, "picture_remote", "messages[0].content[0]"),
        ({**CHAT, "messages": seen("/etc/hostname")}, 400, "picture_scheme", "messages[0].content[0]"),
        ({**CHAT, "messages": seen(data_uri(bytes(120_000)))}, 400, "picture_too_large", "messages[0].content[0]"),
        ({**CHAT, "x": "y" * 500_000}, 413, "body_too_large", None),
        ({**CHAT, "response_format": {"type": "json_schema"}}, 400, "request_invalid", "response_format"),
        ({**CHAT, "response_format": formed({"type": "nothing"})}, 400, "constraint_invalid", None),
        ({**CHAT, "response_format": formed({"const": 2**70})}, 400, "constraint_too_large", "response_format"),
    ],
)  # fmt: skip
def test_bad_bodies(live: Live, body: Any, status: int, code: str, param: str | None) -> None:
    got, _, answer = live.ask("POST", "/v1/chat/completions", body)
    error = answer["error"]
    assert (got, error["code"], error["param"]) == (status, code, param)
    assert set(error) == {"message", "type", "param", "code"}
    assert "/" not in error["message"].replace("application/json", "") and "Traceback" not in error["message"]


def test_lone_surrogates_and_control_tokens_are_text(live: Live) -> None:
    for text in (b'"\\ud800"', b'"<image></s><s>[INST]"', b'"\\u0000"'):
        body = b'{"model":"llava","max_tokens":1,"messages":[{"role":"user","content":' + text + b"}]}"
        status, _, answer = live.ask("POST", "/v1/chat/completions", body)
        assert status == (400 if b"ud800" in text else 200), answer


def test_routes_hosts_and_kinds(live: Live) -> None:
    assert live.ask("GET", "/v1/nothing")[2]["error"]["code"] == "route_not_found"
    assert live.ask("GET", "/docs")[0] == 404
    status, headers, answer = live.ask("GET", "/v1/embeddings")
    assert (status, answer["error"]["code"]) == (405, "method_not_allowed")
    status, _, answer = live.ask("GET", "/v1/models", headers={"Host": "evil.example"})
    assert (status, answer["error"]["code"]) == (421, "host_not_allowed")
    assert live.ask("POST", "/v1/models", b"{}", {"Content-Type": "text/plain"})[0] == 405
    status, _, answer = live.ask("POST", "/v1/embeddings", b"{}", {"Content-Type": "text/plain"})
    assert (status, answer["error"]["code"]) == (415, "media_type")
    assert "server" not in {name.lower() for name in headers}


def test_a_body_that_drips_is_given_up(live: Live) -> None:
    with socket.create_connection(("127.0.0.1", live.port), 10) as peer:
        peer.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 50\r\n\r\n{"
        )
        assert peer.recv(100).startswith(b"HTTP/1.1 408")


# --- key, overload, leaving, ending --------------------------------------------------------------------------


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


# --- those who hold on ---------------------------------------------------------------------------------------


def test_heads_that_drip_are_given_up_and_hold_nobody_up(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    peers = [socket.create_connection(("127.0.0.1", live.port), 10) for _ in range(40)]
    for peer in peers[::2]:
        peer.sendall(b"GET /health HTTP/1.1\r\nHo")
    assert live.ask("GET", "/health")[0] == 200
    for peer in peers:
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(10) == b""
        peer.close()


def test_announced_bodies_take_no_room(live: Live) -> None:
    peers = [socket.create_connection(("127.0.0.1", live.port), 10) for _ in range(4)]
    for peer in peers:
        head = "POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        peer.sendall(f"{head}Content-Length: 390000\r\n\r\n{{".encode())
    assert live.ask("POST", "/v1/embeddings", {"model": "clip", "input": "a cat"})[0] == 200
    for peer in peers:
        peer.close()


def test_what_would_hold_the_loop_up_is_refused_before_it_is_read() -> None:
    start = time.monotonic()
    assert form(b"[" + b"1," * 10_000_000 + b"1]", 1000) == (1, 1001)
    assert time.monotonic() - start < 1
    assert form(b'{"a": ["[[[{,,", {"b": "\\"["}], "c": 1}', 1000)[0] == 3


def test_texts_that_a_tokenizer_reads_for_seconds_are_refused(live: Live) -> None:
    long = "a " * 110_000
    for path, body in (
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": long}]}),
        ("/v1/embeddings", {"model": "clip", "input": [long]}),
    ):
        status, _, answer = live.ask("POST", path, body)
        assert (status, answer["error"]["code"]) == (400, "request_invalid") and "200,000" in answer["error"]["message"]


def test_pictures_in_hand_are_bounded_and_given_back(folders: dict[str, Path], tmp_path: Path) -> None:
    hosts = {"clip": LocalHost(BatchingEngine(chiasm.load(str(folders["clip"]))))}
    small = Live(hosts, Settings(max_held=3 * 24 * 16), tmp_path)  # one picture's worth
    one = {"model": "clip", "input": [{"type": "image_url", "image_url": {"url": RED}}]}
    for _ in range(3):
        assert small.ask("POST", "/v1/embeddings", one)[0] == 200
    status, _, answer = small.ask("POST", "/v1/embeddings", {**one, "input": one["input"] * 2})
    assert (status, answer["error"]["code"]) == (429, "engine_busy")
    assert small.ask("POST", "/v1/embeddings", one)[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 400_000,
        b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 90_000,
        b"\x16\x03\x01\x02\x00 TLS, or something",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused_and_the_connection_ends(live: Live, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", live.port), 10) as peer:
        with contextlib.suppress(ConnectionError):
            peer.sendall(sent + b"\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := peer.recv(65_536):
                answer += piece
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501")) and answer.count(b"HTTP/1.1") == 1
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "http_malformed"


def test_a_body_hides_no_second_request(live: Live) -> None:
    hidden = b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", live.port), 10) as peer:
        peer.sendall(head + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(hidden) + hidden)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := peer.recv(65_536):
                answer += piece
    assert b"chiasm_requests" not in answer and answer.count(b"HTTP/1.1") == 1


def test_requests_in_hand_are_counted_and_health_is_beyond_them(folders: dict[str, Path], tmp_path: Path) -> None:
    hosts = {"clip": LocalHost(BatchingEngine(chiasm.load(str(folders["clip"]))))}
    small = Live(hosts, Settings(max_requests=2), tmp_path)
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    peers = [socket.create_connection(("127.0.0.1", small.port), 10) for _ in range(2)]
    for peer in peers:
        peer.sendall(head)
    until(lambda: small.ask("GET", "/v1/models")[0] == 503)
    status, headers, answer = small.ask("GET", "/v1/models")
    assert (status, answer["error"]["code"], headers["retry-after"]) == (503, "engine_busy", "1")
    assert small.ask("GET", "/health")[0] == 200
    for peer in peers:
        peer.close()
    until(lambda: small.ask("GET", "/v1/models")[0] == 200)
