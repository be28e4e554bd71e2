"""A model's engine in a process of its own, watched: one that dies or hangs is told apart at once and started anew.

One thread a model starts the process, reads its frames and, when it is gone, fails what was in hand, waits a little
longer each time that it dies young, and starts it again. Another writes, so that pictures on their way never hold up
the event loop; a third watches for silence.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from chiasm.core.errors import ChiasmError
from chiasm.serving import wire
from chiasm.serving.work import Ask, Card, Health, Refusal

log = logging.getLogger("chiasm.serving")

STALE_SECONDS = 0.9  # without a beat, of which there are five a second: not alive
HUNG_SECONDS = 10.0  # without a beat, or without progress by its own word: killed
_OLD_SECONDS = 60.0  # a process that lived so long since it was ready isn't part of a crash loop
_LONGEST_PAUSE = 30.0


def pause_before(deaths: int) -> float:
    """Seconds to wait before a start, after so many early deaths in a row."""
    return 0.0 if deaths < 2 else min(_LONGEST_PAUSE, 0.5 * 2.0 ** (deaths - 2))


class _Child:
    """One process, and what is on its way to it."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        surroundings = {name: value for name, value in os.environ.items() if name != "CHIASM_API_KEY"}
        words = json.dumps({**arguments, "parent": os.getpid()})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chiasm.serving.engine_process", words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=surroundings,
        )
        self.outbox: queue.SimpleQueue[tuple[dict[str, Any], Sequence[Ask]] | None] = queue.SimpleQueue()
        self.ready = False
        self.born = self.beat = self.progress = time.monotonic()
        self.health = Health(False, 0, 0)
        threading.Thread(target=self._write, name="chiasm-engine-writer", daemon=True).start()

    def _write(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it is gone, which its reader sees
            while (frame := self.outbox.get()) is not None:
                head, asks = frame
                works = [ask.work for ask in asks]
                if None not in works:  # else nobody waits for it any more
                    wire.write(self.process.stdin, head, pickle.dumps(works, protocol=5) if works else b"")
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    @property
    def fresh(self) -> bool:
        """Whether it was heard of lately."""
        return self.ready and time.monotonic() - self.beat < STALE_SECONDS and self.process.poll() is None

    def hung(self) -> bool:
        """Whether it has been silent or stuck for too long; one that still loads is given its time."""
        now = time.monotonic()
        return self.ready and (now - self.beat > HUNG_SECONDS or now - self.progress > HUNG_SECONDS)

    def end(self) -> str:
        """Kill it, and say how it ended."""
        self.outbox.put(None)
        with contextlib.suppress(OSError):
            self.process.kill()
        status = self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return f"signal {-status}" if status < 0 else f"status {status}"


class EngineProcess:
    """A `Host` whose engine runs in a child process.

    Args:
        load: arguments of `chiasm.load`.
        engine: arguments of the engine, after the model.
        max_pending: asks that may be on their way or in hand; beyond, engine_busy.
    """

    def __init__(self, load: Mapping[str, Any], engine: Mapping[str, Any], max_pending: int = 128) -> None:
        self._arguments = {"load": dict(load), "engine": dict(engine)}
        self._max_pending = max_pending
        self._lock = threading.Lock()
        self._pending: dict[int, Ask] = {}
        self._numbers = itertools.count()
        self._child: _Child | None = None
        self._card: Card | None = None
        self._failure: Exception | None = None
        self._settled, self._closing = threading.Event(), threading.Event()
        self._restarts, self._load_seconds = 0, 10.0
        # The thread that starts a process must live as long as it: Linux ties the two together.
        self._thread = threading.Thread(target=self._supervise, name="chiasm-engine-supervisor", daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch, name="chiasm-engine-watch", daemon=True).start()

    @property
    def pid(self) -> int | None:
        """The process at present."""
        child = self._child
        return None if child is None else child.process.pid

    @property
    def card(self) -> Card:
        """What the model is; waits for the first start.

        Raises:
            ChiasmError: the model can't be loaded; engine_lost when its process ended meanwhile.
        """
        self._settled.wait()
        if self._card is None:
            assert self._failure is not None
            raise self._failure
        return self._card

    def submit(self, *asks: Ask) -> None:
        """Take all asks of one request or none; raises Refusal."""
        with self._lock:
            child = self._child
            if self._closing.is_set():
                raise Refusal("engine_closed", "the server is stopping")
            if child is None or not child.ready:
                since = 0.0 if child is None else time.monotonic() - child.born
                left = max(1, math.ceil(self._load_seconds - since))
                raise Refusal("engine_starting", "the model is being loaded again", left)
            if self._pending and len(self._pending) + len(asks) > self._max_pending:
                what = f"{len(self._pending)} requests are in hand, the limit is {self._max_pending}"
                raise Refusal("engine_busy", what)
            numbered = {next(self._numbers): ask for ask in asks}
            self._pending |= numbered
            child.outbox.put(({"do": "submit", "ids": list(numbered)}, asks))

    def cancel(self, *asks: Ask) -> None:
        """Stop the work; nobody is told any more."""
        with self._lock:
            gone = [number for number, ask in self._pending.items() if ask in asks]
            for number in gone:
                del self._pending[number]
            if gone and self._child is not None:
                self._child.outbox.put(({"do": "cancel", "ids": gone}, ()))
        for ask in asks:
            ask.work = None  # pictures on their way to a process that doesn't listen are let go

    def health(self) -> Health:
        """How the engine is, by what was last heard of it."""
        child = self._child
        if child is None or not child.fresh:
            return Health(False, 0, 0, self._restarts)
        state = child.health
        return replace(state, restarts=self._restarts)

    def close(self, seconds: float) -> None:
        """Take no more, finish what is in hand for up to `seconds`, then end the process."""
        self._closing.set()
        child = self._child
        if child is not None:
            child.outbox.put(({"do": "close", "seconds": seconds}, ()))
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(seconds + 1)
            with contextlib.suppress(OSError):
                child.process.kill()
        self._thread.join(5)

    def _supervise(self) -> None:
        deaths = 0
        while not self._closing.wait(pause_before(deaths)):
            child = _Child(self._arguments)
            with self._lock:
                self._child = child
            try:
                self._hear(child)
            finally:
                how = child.end()
                self._lost(how)
            if self._closing.is_set() or self._card is None:  # a first start that fails is the caller's to see
                break
            old = child.ready and time.monotonic() - child.born > _OLD_SECONDS
            deaths = 1 if old else deaths + 1
            self._restarts += 1
            log.error("a model's process ended with %s; it is started again", how)
        self._settled.set()

    def _hear(self, child: _Child) -> None:
        assert child.process.stdout is not None
        try:
            while True:
                head, body = wire.read(child.process.stdout)
                self._take(child, head, body)
        except (EOFError, OSError):
            return

    def _take(self, child: _Child, head: Mapping[str, Any], body: bytes) -> None:
        kind, now = head["kind"], time.monotonic()
        if kind == "beat":
            child.beat = now
            child.health = Health(head["alive"], head["waiting"], head["active"], caches=head["caches"])
            if head["alive"]:
                child.progress = now
        elif kind == "piece":
            ask = self._pending.get(head["id"])
            if ask is not None:
                ask.on_piece(head["text"])
        elif kind == "done":
            with self._lock:
                ask = self._pending.pop(head["id"], None)
            if ask is not None:
                ask.on_done(_result(head, body))
        elif kind == "ready":
            child.ready, child.beat, child.progress = True, now, now
            child.health = Health(True, 0, 0)
            self._load_seconds = now - child.born
            self._card = Card(head["family"], tuple(head["capabilities"]))
            self._settled.set()
        else:
            self._failure = wire.error_of(head)

    def _lost(self, how: str) -> None:
        """Fail what the process had in hand."""
        with self._lock:
            left, self._pending, self._child = list(self._pending.values()), {}, None
        if self._failure is None:
            self._failure = ChiasmError("engine_lost", f"the model's process ended with {how} while it was loading")
        for ask in left:
            if self._closing.is_set():
                ask.on_done(Refusal("engine_closed", "the server is stopping"))
            else:
                wait = max(1, math.ceil(self._load_seconds))
                ask.on_done(Refusal("engine_lost", "the model's process ended before the reply was done", wait))

    def _watch(self) -> None:
        while not self._closing.wait(0.25):
            child = self._child
            if child is not None and child.hung():
                log.error("a model's process makes no progress; it is ended")
                with contextlib.suppress(OSError):
                    child.process.kill()


def _result(head: Mapping[str, Any], body: bytes) -> Any:
    if "error" in head:
        return wire.error_of(head["error"])
    return wire.answer_of(head["answer"]) if "answer" in head else body
