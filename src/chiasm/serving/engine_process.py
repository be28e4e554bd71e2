"""The process that one model lives in: it loads it, answers its parent's frames, and never outlives it.

Argument: a JSON object, ``load`` (of `chiasm.load`) and ``engine`` (of the engine). Frames in: ``submit`` (ids; body:
pickled works), ``cancel`` (ids), ``close`` (seconds). Frames out: ``ready`` (the model's card) or ``failed``; a
``beat`` five times a second, with the engine's own word on its progress; ``piece`` and ``done`` of every ask.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pickle
import queue
import signal
import sys
import threading
from typing import Any, BinaryIO

from chiasm.serving import wire
from chiasm.serving.work import Answer, Ask

BEAT_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1


def bind_to_parent(parent: int) -> None:
    """End with the parent however it ends, and leave the terminal's and a supervisor's signals to it."""
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call above
            os._exit(0)


class _Speaker:
    """Writes frames from several threads; a parent that is gone ends the process."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._lock = stream, threading.Lock()

    def tell(self, head: dict[str, Any], body: bytes = b"") -> None:
        try:
            with self._lock:
                wire.write(self._stream, head, body)
        except OSError:
            os._exit(0)


def _listen(stream: BinaryIO, inbox: queue.SimpleQueue[tuple[dict[str, Any], bytes]]) -> None:
    try:
        while True:
            inbox.put(wire.read(stream))
    except (EOFError, OSError):
        os._exit(0)


def main(arguments: dict[str, Any]) -> int:
    """Serve one model until the parent says `close` or is gone."""
    bind_to_parent(arguments["parent"])
    speaker = _Speaker(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)  # whatever a library prints must not mix with the frames
    inbox: queue.SimpleQueue[tuple[dict[str, Any], bytes]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, inbox), daemon=True).start()
    import chiasm

    try:
        model = chiasm.load(**arguments["load"])
        from chiasm.models.packing import pack
        from chiasm.serving.engine import BatchingEngine
        from chiasm.serving.local import LocalHost

        if arguments["engine"].get("max_batch", 1) > 1:
            pack(model.module)
        host = LocalHost(BatchingEngine(model, **arguments["engine"]))
    except chiasm.ChiasmError as error:
        speaker.tell({"kind": "failed", **wire.error_head(error)})
        return 1
    speaker.tell({"kind": "ready", "family": host.card.family, "capabilities": list(host.card.capabilities)})
    threading.Thread(target=_beat, args=(host, speaker), daemon=True).start()
    asks: dict[int, Ask] = {}
    while True:
        head, body = inbox.get()
        if head["do"] == "close":
            host.close(head["seconds"])
            return 0
        if head["do"] == "cancel":
            host.cancel(*(asks.pop(number) for number in head["ids"] if number in asks))
        else:
            _submit(host, speaker, asks, head["ids"], pickle.loads(body))


def _beat(host: Any, speaker: _Speaker) -> None:
    pause = threading.Event()
    while True:
        state = host.health()
        known = {"alive": state.alive, "waiting": state.waiting, "active": state.active, "caches": dict(state.caches)}
        speaker.tell({"kind": "beat", **known})
        pause.wait(BEAT_SECONDS)


def _submit(host: Any, speaker: _Speaker, asks: dict[int, Ask], ids: list[int], works: list[Any]) -> None:
    def ask(number: int, work: Any) -> Ask:
        def done(result: Any) -> None:
            asks.pop(number, None)
            if isinstance(result, Answer):
                speaker.tell({"kind": "done", "id": number, "answer": wire.answer_head(result)})
            elif isinstance(result, bytes):
                speaker.tell({"kind": "done", "id": number}, result)
            else:
                speaker.tell({"kind": "done", "id": number, "error": wire.error_head(result)})

        def piece(text: str) -> None:
            speaker.tell({"kind": "piece", "id": number, "text": text})

        return Ask(work, done, piece)

    made = {number: ask(number, work) for number, work in zip(ids, works, strict=True)}
    asks.update(made)
    try:
        host.submit(*made.values())
    except Exception as error:
        for one in made.values():
            one.on_done(error)


if __name__ == "__main__":
    code = 0
    with contextlib.suppress(KeyboardInterrupt):
        code = main(json.loads(sys.argv[1]))
    sys.stdout.flush()
    os._exit(code)  # threads in the middle of a forward pass aren't waited for
