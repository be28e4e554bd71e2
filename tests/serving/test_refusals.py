"""What the server refuses over its socket: wrong bodies, slow senders, what is no HTTP, more than fits."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from tests.serving.conftest import CHAT, RED, data_uri, formed, seen
from tests.serving.live import Live, until

import chiasm
from chiasm.serving import connections
from chiasm.serving.doors import form
from chiasm.serving.engine import BatchingEngine
from chiasm.serving.local import LocalHost
from chiasm.serving.settings import Settings


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
