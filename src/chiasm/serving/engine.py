"""The engine behind one model: a bounded queue, and one thread in which a `Scheduler` writes replies side by side.

`Engine` is what the application sees. A request joins the running ones at the next token, whatever its sampling, and
leaves as soon as it is answered or cancelled; one that fails fails alone. Other calls of the model run between tokens.
Prompts are prepared, their pictures resized and cut, in threads beside it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from chiasm.core.constraints import Constraint
from chiasm.core.errors import ChiasmError
from chiasm.core.messages import Conversation
from chiasm.core.protocols import Answering
from chiasm.generation.requests import Request, Ticket
from chiasm.generation.sampling import Sampling
from chiasm.generation.scheduler import Scheduler
from chiasm.generation.store import Counts
from chiasm.models.model import Model

log = logging.getLogger("chiasm.serving")

PREPARING = 2  # threads that prepare prompts


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
        sampling, max_new_tokens, stop, num_beams, constraint, alternatives: as in `generation.requests.Request`.
        cancelled: set from any thread; nothing is called any more, and the work stops at the next token.
    """

    on_done: Callable[[Any], None]
    on_piece: Callable[[str], None] | None = None
    conversation: Conversation | None = None
    call: Callable[[], Any] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    num_beams: int = 1
    constraint: Constraint | None = None
    alternatives: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)

    def request(self) -> Request:
        """What is asked of the scheduler.

        Raises:
            ConfigError: what can't be asked.
        """
        assert self.conversation is not None
        return Request(
            conversation=self.conversation,
            sampling=self.sampling,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            num_beams=self.num_beams,
            constraint=self.constraint,
            alternatives=self.alternatives,
        )

    def piece(self, text: str) -> None:
        """Give a piece of text to whoever still waits for it."""
        if text and self.on_piece is not None and not self.cancelled.is_set():
            self.on_piece(text)

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
        caches: how what is kept between requests is used, by name.
    """

    alive: bool
    waiting: int
    active: int
    idle_seconds: float
    caches: Mapping[str, Counts] = field(default_factory=dict)


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
    """One thread that answers requests to one model, side by side.

    Args:
        model: the model; nobody else may use it meanwhile.
        max_queue: jobs that may wait.
        max_batch: replies written at once.
        stall_seconds: work without progress for so long counts as not alive.
        deterministic: a reply's bits don't depend on what else is asked.
    """

    def __init__(
        self,
        model: Model,
        max_queue: int = 64,
        max_batch: int = 8,
        stall_seconds: float = 120.0,
        *,
        deterministic: bool = False,
    ) -> None:
        self.model = model
        self.max_queue, self.max_batch, self.stall_seconds = max_queue, max_batch, stall_seconds
        self._deterministic = deterministic
        self._waiting: deque[Job] = deque()
        self._calls: deque[Job] = deque()
        self._writing: dict[Ticket, Job] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._progress = time.monotonic()
        self._seconds_a_job = 1.0
        self._scheduler: Scheduler | None = None
        self._workers = ThreadPoolExecutor(PREPARING, "chiasm-prompts")
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
        waiting, active = len(self._waiting), len(self._calls) + len(self._writing)
        idle = time.monotonic() - self._progress
        stalled = bool(active) and idle > self.stall_seconds
        scheduler = self._scheduler
        caches = {} if scheduler is None else scheduler.caches
        return Health(self._thread.is_alive() and not stalled, waiting, active, idle, caches)

    def close(self, seconds: float = 10.0) -> None:
        """Take no more jobs, finish those in hand for up to `seconds`, refuse the rest."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)
        self._workers.shutdown(wait=False, cancel_futures=True)
        with self._changed:
            left, self._waiting = [*self._calls, *self._writing.values(), *self._waiting], deque()
        for job in left:
            job.done(EngineRefusal("engine_closed", "the server is stopping"))
            job.cancelled.set()

    def _run(self) -> None:
        while self._take():
            if self._calls:
                self._call(self._calls[0])
                self._calls.popleft()
                self._progress = time.monotonic()
            if self._writing:
                self._write()
                # a picture that is prepared for ever is a stall
                if self._scheduler is None or not self._scheduler.waits:
                    self._progress = time.monotonic()

    def _take(self) -> bool:
        """Bring in what can be begun; waits while there is nothing to do. False once closed and done."""
        with self._changed:
            while True:
                waiting = [job for job in self._waiting if not job.cancelled.is_set()]
                self._waiting = deque(job for job in waiting if not self._begin(job))
                if self._calls or self._writing:
                    return True
                if self._closed:
                    return False
                self._changed.wait()

    def _begin(self, job: Job) -> bool:
        """Take a job in hand; False where there is no room for it yet."""
        if not self._calls and not self._writing:
            self._progress = time.monotonic()
        if job.call is not None or isinstance(self.model.module, Answering):
            self._calls.append(job)
            return True
        if len(self._writing) >= self.max_batch:
            return False
        try:
            self._writing[self._engine().add(job.request())] = job
        except Exception as error:
            self._fail(job, error)
        return True

    def _engine(self) -> Scheduler:
        if self._scheduler is None:
            how: dict[str, Any] = {"deterministic": self._deterministic, "workers": self._workers}
            self._scheduler = self.model.scheduler(self.max_batch, **how)
        return self._scheduler

    def _call(self, job: Job) -> None:
        if job.cancelled.is_set():
            return
        start = time.monotonic()
        try:
            if job.call is not None:
                job.done(job.call())
            else:
                (reply,) = self.model.generate([job.conversation], constraint=job.constraint)
                job.piece(reply.text)
                job.done(reply)
        except Exception as error:
            self._fail(job, error)
        self._took(time.monotonic() - start)

    def _write(self) -> None:
        """One token for every reply in the making; tell those who wait."""
        for ticket, job in self._writing.items():
            ticket.cancelled = job.cancelled.is_set()
        start = time.monotonic()
        try:
            self._engine().step()
        except Exception as error:  # no request's fault: everything in hand is lost, and the next find a new scheduler
            self._scheduler = None
            for ticket in self._writing:
                ticket.fail(error)
        seconds = time.monotonic() - start
        for ticket, job in list(self._writing.items()):
            job.piece(ticket.fresh())
            if ticket.over:
                del self._writing[ticket]
                self._took(seconds * max(1, len(ticket.running.drawn)) / (len(self._writing) + 1))
                if isinstance(ticket.result, Exception):
                    self._fail(job, ticket.result)
                else:
                    job.done(ticket.result)

    def _took(self, seconds: float) -> None:
        self._seconds_a_job = 0.8 * self._seconds_a_job + 0.2 * seconds

    def _fail(self, job: Job, error: Exception) -> None:
        if not isinstance(error, ChiasmError):
            log.error("a request failed in an unforeseen way", exc_info=error)
        job.done(error)
