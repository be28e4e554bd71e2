"""The engine behind one model: a bounded queue and one thread that answers compatible requests together.

`Engine` is what the application sees, so that another scheduler can take this one's place. Here, requests that wait
and agree in how they are sampled become one batch; a batch that fails is asked again one by one, so that only the
request at fault does; a cancelled request leaves its batch at the next token.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from chiasm.core.errors import ChiasmError
from chiasm.core.messages import Conversation
from chiasm.core.protocols import Answering
from chiasm.core.replies import Reply
from chiasm.generation.decoding import decode_steps, finished_reply
from chiasm.generation.sampling import Sampling
from chiasm.models.model import Model

log = logging.getLogger("chiasm.serving")

_CANCELLED = "cancelled"


class EngineRefusal(ChiasmError):
    """The engine takes no more requests, for now (engine_busy) or for good (engine_closed).

    Args:
        code: which.
        what: why, with both numbers.
        retry_after: seconds after which to come back.
    """

    def __init__(self, code: str, what: str, retry_after: int = 1) -> None:
        super().__init__(code, what)
        self.retry_after = retry_after


@dataclass(eq=False, kw_only=True, slots=True)
class Job:
    """One request to a model: a conversation to answer, or a function of the model to run.

    Attributes:
        on_piece: called from the engine's thread with each piece of a reply's text, as it comes.
        on_done: called from the engine's thread once, with the result or the exception.
        conversation: what to answer.
        call: what to run instead.
        sampling, max_new_tokens, stop: as in `Model.generate`.
        cancelled: set from any thread; nothing is called any more, and the work stops at the next token.
    """

    on_done: Callable[[Any], None]
    on_piece: Callable[[str], None] | None = None
    conversation: Conversation | None = None
    call: Callable[[], Any] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal for jobs that may share a batch."""
        if self.conversation is None:
            return ("call", id(self))
        seed = self.sampling.seed if self.sampling.temperature > 0 else None
        return (self.sampling.temperature, self.sampling.top_p, seed, self.max_new_tokens, self.stop)

    def done(self, result: Any) -> None:
        """Give the result to whoever still waits for it."""
        if not self.cancelled.is_set():
            self.on_done(result)


@dataclass(frozen=True, slots=True)
class Health:
    """How an engine is.

    Attributes:
        alive: its worker runs and makes progress.
        waiting: jobs in the queue.
        active: jobs being worked on.
        idle_seconds: since the last progress.
    """

    alive: bool
    waiting: int
    active: int
    idle_seconds: float


class Engine(Protocol):
    """What the application needs of an engine."""

    model: Model

    def submit(self, *jobs: Job) -> None:
        """Queue all jobs or none; raises EngineRefusal."""

    def health(self) -> Health:
        """How it is, without waiting for it."""

    def close(self, seconds: float) -> None:
        """Take no more jobs, finish those in hand for up to `seconds`, refuse the rest."""


class BatchingEngine:
    """One thread that answers requests to one model, compatible ones together.

    Args:
        model: the model; nobody else may use it meanwhile.
        max_queue: jobs that may wait.
        max_batch: replies written at once; 1 = a reply never depends on its neighbours.
        stall_seconds: work without progress for so long counts as not alive.
    """

    def __init__(self, model: Model, max_queue: int = 64, max_batch: int = 8, stall_seconds: float = 120.0) -> None:
        self.model = model
        self.max_queue, self.max_batch, self.stall_seconds = max_queue, max_batch, stall_seconds
        self._waiting: deque[Job] = deque()
        self._active: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._progress = time.monotonic()
        self._seconds_a_job = 1.0
        self._thread = threading.Thread(target=self._run, name="chiasm-engine", daemon=True)
        self._thread.start()

    def submit(self, *jobs: Job) -> None:
        """Queue all jobs or none.

        Args:
            jobs: what belongs to one request.

        Raises:
            EngineRefusal: engine_busy when the queue has no room for them; engine_closed.
        """
        with self._changed:
            if self._closed or not self._thread.is_alive():
                raise EngineRefusal("engine_closed", "the server is stopping")
            waiting = [job for job in self._waiting if not job.cancelled.is_set()]
            self._waiting = deque(waiting)
            # A queue without anyone in it takes any one request, however many replies it asks for.
            if waiting and len(waiting) + len(jobs) > self.max_queue:
                seconds = max(1, min(60, round(self._seconds_a_job * len(waiting))))
                what = f"{len(waiting)} requests wait, the queue takes {self.max_queue}"
                raise EngineRefusal("engine_busy", what, seconds)
            self._waiting.extend(jobs)
            self._changed.notify()

    def health(self) -> Health:
        """How it is, without waiting for it."""
        waiting, active = len(self._waiting), len(self._active)
        idle = time.monotonic() - self._progress
        stalled = bool(active) and idle > self.stall_seconds
        return Health(self._thread.is_alive() and not stalled, waiting, active, idle)

    def close(self, seconds: float = 10.0) -> None:
        """Take no more jobs, finish those in hand for up to `seconds`, refuse the rest."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            left, self._waiting = [*self._active, *self._waiting], deque()
        for job in left:
            job.done(EngineRefusal("engine_closed", "the server is stopping"))
            job.cancelled.set()

    def _run(self) -> None:
        while jobs := self._next():
            start = time.monotonic()
            try:
                self._work(jobs)
            finally:
                self._seconds_a_job = 0.8 * self._seconds_a_job + 0.2 * (time.monotonic() - start) / len(jobs)
                self._progress, self._active = time.monotonic(), []

    def _next(self) -> list[Job]:
        """The next batch; waits for one. Empty once closed and nothing waits."""
        with self._changed:
            while True:
                waiting = [job for job in self._waiting if not job.cancelled.is_set()]
                if waiting:
                    chosen = [job for job in waiting if job.kind == waiting[0].kind][: self.max_batch]
                    self._waiting = deque(job for job in waiting if job not in chosen)
                    self._active, self._progress = chosen, time.monotonic()
                    return chosen
                if self._closed:
                    return []
                self._waiting.clear()
                self._changed.wait()

    def _work(self, jobs: list[Job]) -> None:
        try:
            if jobs[0].call is not None:
                jobs[0].done(jobs[0].call())
            else:
                self._answer(jobs)
        except Exception as error:
            if len(jobs) == 1:
                if not isinstance(error, ChiasmError):
                    log.exception("a request failed in an unforeseen way")
                jobs[0].done(error)
                return
            for job in jobs:  # one of them is at fault: the others must not pay for it
                if not job.cancelled.is_set():
                    self._active = [job]
                    self._work([job])

    def _answer(self, jobs: list[Job]) -> None:
        first, model = jobs[0], self.model
        conversations = [job.conversation for job in jobs]
        if isinstance(model.module, Answering):
            for job, reply in zip(jobs, model.generate(conversations), strict=True):
                self._tell(job, reply.text, reply)
            return
        batch = model.processor(conversations).to(model.device)
        limits = model.limits(first.max_new_tokens, first.stop)
        told: set[int] = set()
        for sequences in decode_steps(model.module, batch, model.processor.tokenizer, limits, first.sampling):  # type: ignore[arg-type]
            self._progress = time.monotonic()
            for row, (job, sequence) in enumerate(zip(jobs, sequences, strict=True)):
                if row in told:
                    continue
                if job.cancelled.is_set():
                    sequence.finish_reason = _CANCELLED
                    told.add(row)
                    continue
                piece = sequence.fresh(limits)
                if sequence.finish_reason is None:
                    if piece and job.on_piece is not None:
                        job.on_piece(piece)
                else:
                    told.add(row)
                    self._tell(job, piece, finished_reply(batch, row, sequence))

    def _tell(self, job: Job, piece: str, reply: Reply) -> None:
        if piece and job.on_piece is not None and not job.cancelled.is_set():
            job.on_piece(piece)
        job.done(reply)
