"""Processes that prepare batches ahead of the training. Which worker does what changes nothing but the time it takes.

Worker w of n prepares every n-th batch. Each has a pipe of its own; the parent waits on the pipes and on the
processes' ends at once, so a worker that dies is an error at once and never a hang. A worker whose parent is gone ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from chiasm.core.errors import DataError

AHEAD = 2  # batches a worker prepares before they are asked for
_ALIVE = 2.0  # seconds between looks at whether the parent is still there


class Workers:
    """A pool that computes `prepare(number)` for numbers in order.

    Args:
        prepare: number → anything that can be sent between processes; errors must be caught inside it.
        count: processes, at least 1.
    """

    def __init__(self, prepare: Callable[[int], Any], count: int) -> None:
        assert count >= 1
        # a fork shares the data set, its open index and the tokenizer at no cost; nothing has to be picklable
        context = multiprocessing.get_context("fork")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or tokenizers warn that they were forked
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(prepare, theirs, os.getpid(), [*self._pipes, ours]), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        self._ready: dict[int, Any] = {}
        self._next = self._asked = 0

    def __call__(self, number: int) -> Any:
        """What `prepare(number)` gives.

        Args:
            number: usually one more than last time; any other number starts anew from there.

        Raises:
            DataError: a worker died.
        """
        if number != self._next:
            self._skip_to(number)
        self._next = number + 1
        while self._asked < number + AHEAD * len(self._pipes):
            self._send(self._asked)
            self._asked += 1
        while number not in self._ready:
            self._receive()
        return self._ready.pop(number)

    def close(self) -> None:
        """End the processes; unread batches are dropped."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        self._pipes, self._processes = [], []

    def _skip_to(self, number: int) -> None:
        while len(self._ready) < self._asked - self._next:  # what was asked for comes, and nobody wants it
            self._receive()
        self._ready.clear()
        self._asked = number

    def _send(self, number: int) -> None:
        worker = number % len(self._pipes)
        try:
            self._pipes[worker].send(number)
        except OSError:
            raise self._died(worker) from None

    def _receive(self) -> None:
        ends = [process.sentinel for process in self._processes]
        for event in wait([*self._pipes, *ends]):
            if isinstance(event, Connection):
                worker = self._pipes.index(event)
                try:
                    number, result = event.recv()
                except (EOFError, OSError):
                    raise self._died(worker) from None
                self._ready[number] = result
            elif not self._pipes[ends.index(event)].poll():
                raise self._died(ends.index(event))

    def _died(self, worker: int) -> DataError:
        process = self._processes[worker]
        process.join(5)
        code = process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        count = len(self._processes)
        return DataError(
            "worker_died",
            f"data worker {worker} of {count} (process {process.pid}) ended with {how} before batch {self._next - 1}",
            hint="fewer workers if memory ran out, or workers=0 to see the failure in this process",
        )


def _work(prepare: Callable[[int], Any], pipe: Connection, parent: int, others: list[Connection]) -> None:
    import torch

    for other in others:  # inherited ends would keep pipes open after the parent is gone
        other.close()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    torch.set_num_threads(1)  # the pool of threads doesn't survive a fork
    try:
        while True:
            while not pipe.poll(_ALIVE):
                if os.getppid() != parent:
                    return
            number = pipe.recv()
            pipe.send((number, prepare(number)))
    except (EOFError, OSError):
        return  # the parent closed the pipe, or is gone
