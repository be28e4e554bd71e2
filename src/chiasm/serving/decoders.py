"""A pool of processes that decode pictures, each killed when it takes too long and replaced when it dies."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from chiasm.core.errors import PictureError
from chiasm.serving.decoding_worker import ANSWER, PIXELS, REQUEST, SIZE
from chiasm.serving.settings import MediaLimits

if TYPE_CHECKING:
    from PIL import Image

_RENEW_AFTER = 2000  # pictures: whatever a decoding library leaks goes with its process


class _Worker:
    """One process and the two pipes to it."""

    def __init__(self, limits: MediaLimits) -> None:
        words = [limits.decode_memory, limits.max_bytes, limits.max_side]
        # One thread: a linear-algebra pool would eat the address space that the process is given.
        surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        surroundings.pop("CHIASM_API_KEY", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chiasm.serving.decoding_worker", *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=surroundings,
        )
        self.served = 0

    def ask(self, data: bytes, max_pixels: int) -> tuple[int, bytes]:
        """Send one picture and wait for the answer; EOFError or OSError when the process is gone."""
        requests, answers = self.process.stdin, self.process.stdout
        assert requests is not None and answers is not None
        requests.write(REQUEST.pack(max_pixels, len(data)))
        requests.write(data)
        requests.flush()
        head = answers.read(ANSWER.size)
        if len(head) < ANSWER.size:
            raise EOFError
        kind, length = ANSWER.unpack(head)
        body = answers.read(length)
        if len(body) < length:
            raise EOFError
        self.served += 1
        return kind, body

    def end(self) -> None:
        """Kill the process and wait for it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # unsent bytes of a picture that killed it
                    pipe.close()


class Decoders:
    """Processes that decode pictures.

    Args:
        limits: time, memory and size of a picture.
        count: pictures decoded at once; a process starts when it is first needed.
    """

    def __init__(self, limits: MediaLimits, count: int = 2) -> None:
        self.limits = limits
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(count):
            self._idle.put(None)
        self._count, self._closed = count, False

    def decode(self, data: bytes, max_pixels: int) -> Image.Image:
        """Decode one picture in a process of its own; blocks while all are busy.

        Args:
            data: the encoded file.
            max_pixels: width times height allowed, told from the header.

        Returns:
            An upright RGB picture.

        Raises:
            PictureError: as `read_picture`; picture_too_slow after the time limit; picture_decoder_died when the
                decoding library took its process down.
        """
        from PIL import Image

        worker = self._idle.get()
        try:
            if worker is None or worker.process.poll() is not None:
                worker = _Worker(self.limits)
            kind, body = self._ask(worker, data, max_pixels)
        except BaseException:
            if worker is not None:
                worker.end()
            self._idle.put(None)
            raise
        if worker.served >= _RENEW_AFTER or self._closed:
            worker.end()
            worker = None
        self._idle.put(worker)
        if kind == PIXELS:
            size = SIZE.unpack_from(body)
            return Image.frombytes("RGB", size, memoryview(body)[SIZE.size :])
        code, what, hint = json.loads(body)
        raise PictureError(code, what, hint=hint)

    def _ask(self, worker: _Worker, data: bytes, max_pixels: int) -> tuple[int, bytes]:
        late = threading.Event()

        def kill() -> None:
            late.set()
            worker.process.kill()

        timer = threading.Timer(self.limits.decode_seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            return worker.ask(data, max_pixels)
        except (EOFError, OSError):
            if late.is_set():
                raise PictureError(
                    "picture_too_slow", f"the picture was not decoded within {self.limits.decode_seconds:g} seconds"
                ) from None
            raise PictureError("picture_decoder_died", "decoding the picture brought its decoder down") from None
        finally:
            timer.cancel()

    def close(self) -> None:
        """End every process, once the pictures in hand are done."""
        self._closed = True
        for _ in range(self._count):
            try:
                worker = self._idle.get(timeout=self.limits.decode_seconds + 1)
            except queue.Empty:
                return
            if worker is not None:
                worker.end()
