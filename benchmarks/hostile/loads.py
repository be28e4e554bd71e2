"""Hostile loads: too many, those who leave, those who hold on, one among good ones, and a killed engine."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import struct
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hostile import attacks
from hostile.server import Served, chat, data_uri, encoded

PICTURE = data_uri(encoded())


def share(values: list[float], part: float) -> float:
    """A quantile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def overload(server: Served, scale: float) -> dict[str, Any]:
    """Four times as many clients as the queue and the batch hold: answered, or told to come back."""
    told, lock = Counter[int](), threading.Lock()
    until = time.monotonic() + max(3.0, 60 * scale)
    before = server.memory()

    def client(number: int) -> None:
        at = 0
        while time.monotonic() < until:
            at += 1
            status, _, _ = server.ask("/v1/chat/completions", chat(PICTURE, text=f"{number} {at}", tokens=24))
            with lock:
                told[status] += 1
            if status != 200:
                time.sleep(0.05)

    with ThreadPoolExecutor(4 * 72) as pool:
        list(pool.map(client, range(4 * 72)))
    emptied = server.idle()
    status, _, _ = server.ask("/v1/chat/completions", chat(PICTURE))
    figures = {"clients": 4 * 72, "told": dict(told), "grown_mib": round(server.memory() - before, 1)}
    return {**figures, "ok": set(told) <= {200, 429, 503} and told[200] > 0 and emptied and status == 200}


def disconnects(server: Served, scale: float) -> dict[str, Any]:
    """Clients who leave in the middle: the slots come back."""
    count, chance = max(20, round(200 * scale)), random.Random(1)
    body = json.dumps({**chat(PICTURE, tokens=200), "stream": True}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    for _ in range(count):
        peer = socket.create_connection(("127.0.0.1", server.port), 10)
        part = chance.choice((len(body), len(body), len(body) // 2))
        peer.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:part])
        peer.settimeout(chance.random() * 0.05)
        with contextlib.suppress(TimeoutError):
            peer.recv(1)
        if chance.random() < 0.5:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a farewell
        peer.close()
    emptied = server.idle()
    return {"disconnects": count, "slots_back": emptied, "ok": emptied}


def slow(server: Served, scale: float) -> dict[str, Any]:
    """Slow clients by the hundred: those who behave hardly notice."""
    count = max(50, round(500 * scale))
    calm = [server.ask("/health")[2] for _ in range(200)]
    head = b"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 60000000\r\n\r\n{"
    starts = (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-a: ", b"", b"POST /v1/embeddings HTTP/1.1\r\n" + head)
    peers = []
    for number in range(count):
        peer = socket.create_connection(("127.0.0.1", server.port), 10)
        peer.sendall(starts[number % 3])
        peers.append(peer)
    busy, wrong, dripped = [], 0, 0
    until = time.monotonic() + 12
    while time.monotonic() < until:
        for _ in range(25):
            status, _, seconds = server.ask("/health")
            busy.append(seconds)
            wrong += status != 200
        for peer in peers[dripped % 7 :: 7]:
            with contextlib.suppress(OSError):
                peer.send(b"a")
        dripped += 1
    given_up = 0
    for peer in peers[: count // 3 * 3 : 3]:  # heads that drip are given up after ten seconds
        peer.settimeout(3)
        with contextlib.suppress(OSError):
            given_up += peer.recv(1) == b""
            continue
        given_up += 1
    for peer in peers:
        peer.close()
    figures = {"p99_calm_s": round(share(calm, 0.99), 4), "p99_slow_s": round(share(busy, 0.99), 4)}
    ratio = share(busy, 0.99) / share(calm, 0.99)
    told = {"clients": count, **figures, "ratio": round(ratio, 2), "wrong": wrong, "heads_given_up": given_up}
    return {**told, "ok": wrong == 0 and ratio <= 2 and given_up > 0}


def poison(server: Served, scale: float) -> dict[str, Any]:
    """One poisoned request among fifteen good ones: the others' replies are their solo replies."""
    rounds, different, wrong = max(1, round(5 * scale)), 0, 0
    good = [chat(data_uri(encoded(colour=(16 * at, 99, 7))), text=f"number {at}?") for at in range(15)]
    solo = [server.ask("/v1/chat/completions", body)[1]["choices"][0]["message"]["content"] for body in good]
    bad = [chat(data_uri(encoded()[:50])), chat(PICTURE, text="x " * 90_000), chat(*[PICTURE] * 65)]
    for at in range(rounds):
        mixed = [*good, bad[at % len(bad)]]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda body: server.ask("/v1/chat/completions", body), mixed))
        wrong += answers[-1][0] != 400
        for (status, document, _), expected in zip(answers[:-1], solo, strict=True):
            different += status != 200 or document["choices"][0]["message"]["content"] != expected
    return {"rounds": rounds, "different": different, "poison_not_refused": wrong, "ok": not different and not wrong}


def kill(server: Served, scale: float) -> dict[str, Any]:
    """kill -9 of an engine in the middle of a reply."""
    told: dict[str, Any] = {}
    (engine, *_) = server.engines()
    for pid in server.engines():
        os.kill(pid, signal.SIGSTOP)

    def client() -> None:
        told["answer"] = server.ask("/v1/chat/completions", chat(PICTURE, tokens=400))
        told["at"] = time.monotonic()

    asking = threading.Thread(target=client)
    asking.start()
    time.sleep(0.5)
    killed = time.monotonic()
    for pid in server.engines():
        os.kill(pid, signal.SIGKILL)
    while server.ask("/health")[0] != 503 and time.monotonic() - killed < 10:
        pass
    unwell = time.monotonic() - killed
    asking.join(30)
    status, document, _ = told["answer"]
    back = False
    while not back and time.monotonic() - killed < 240:
        back = server.ask("/health")[0] == 200
        time.sleep(0.1)
    ready = time.monotonic() - killed
    good = server.ask("/v1/chat/completions", chat(PICTURE))[0] == 200
    failed = told["at"] - killed
    figures = {"failed_after_s": round(failed, 2), "unwell_after_s": round(unwell, 2), "ready_after_s": round(ready, 1)}
    code = document.get("error", {}).get("code")
    return {**figures, "code": code, "ok": good and status == 503 and failed <= 2 and unwell <= 1}


def soak(server: Served, minutes: float, pause: float) -> dict[str, Any]:
    """Good and hostile requests for a while: memory must not climb. A client rests `pause` seconds between two."""
    chance, files = random.Random(9), attacks.originals(random.Random(9))
    told, lock, points = Counter[int](), threading.Lock(), list[tuple[float, float]]()
    start = time.monotonic()
    until = start + 60 * minutes

    def client(number: int) -> None:
        mine = random.Random(number)
        while time.monotonic() < until:
            body: Any = chat(PICTURE, text=str(mine.random()), tokens=mine.randint(1, 40))
            way = mine.randrange(6)
            if way == 0:
                body = chat(data_uri(attacks.mutated(mine.choice(files), mine)))
            elif way == 1:
                body = {**body, "temperature": 5}
            elif way == 2:
                body = chat(mine.choice(attacks.tricks(1)))
            path = "/v1/chat/completions"
            if way == 3:
                path, body = "/v1/embeddings", attacks.embedding(encoded(colour=(mine.randrange(256), 1, 2)))
            status, _, _ = server.ask(path, body)
            with lock:
                told[status] += 1
            time.sleep(pause)

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(client, number) for number in range(6)]
        while not all(one.done() for one in running):
            time.sleep(min(5.0, 2 * minutes))
            points.append(((time.monotonic() - start) / 60, server.memory()))
            if chance.random() < 0.2:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", server.port), 5).close()
    settled = points[len(points) // 4 :]
    slope = _slope(settled)
    figures = {"minutes": round(minutes, 1), "told": dict(told), "mib_a_minute": round(slope, 2)}
    return {**figures, "ok": set(told) <= {200, 400, 429} and slope < 1.0 and server.idle()}


def _slope(points: list[tuple[float, float]]) -> float:
    """Least squares."""
    if len(points) < 2:
        return 0.0
    x, y = (sum(point[at] for point in points) / len(points) for at in (0, 1))
    spread = sum((a - x) ** 2 for a, _ in points)
    return sum((a - x) * (b - y) for a, b in points) / spread if spread else 0.0
