"""Between the event loop and an engine's thread: events come over, a timeout or a client's leaving goes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import Request

from chiasm.serving.engine import Engine, Job
from chiasm.serving.faults import Fault

T = TypeVar("T")


async def events(engine: Engine, jobs: Sequence[Job], seconds: float) -> AsyncGenerator[tuple[int, Any], None]:
    """Run the jobs of one request; leaving the iteration cancels what isn't done.

    Args:
        engine: where they run.
        jobs: their callbacks are set here.
        seconds: for all of them.

    Yields:
        (job, piece of text) as text comes, and (job, result) once a job is done.
    """
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Any, bool]]()

    def teller(index: int, last: bool) -> Callable[[Any], None]:
        def tell(value: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever waited
                loop.call_soon_threadsafe(queue.put_nowait, (index, value, last))

        return tell

    for index, job in enumerate(jobs):
        job.on_done = teller(index, True)
        job.on_piece = teller(index, False) if job.on_piece is not None else None
    deadline, open_jobs = loop.time() + seconds, len(jobs)
    try:
        engine.submit(*jobs)
        while open_jobs:
            index, value, last = await asyncio.wait_for(queue.get(), deadline - loop.time())
            if isinstance(value, BaseException):
                raise value
            open_jobs -= last
            yield index, value
    finally:
        for job in jobs:
            job.cancelled.set()


async def results(engine: Engine, jobs: Sequence[Job], seconds: float) -> list[Any]:
    """Run the jobs of one request and give their results, in order."""
    found: dict[int, Any] = {}
    async with contextlib.aclosing(events(engine, jobs, seconds)) as stream:
        async for index, value in stream:
            found[index] = value
    return [found[index] for index in range(len(jobs))]


async def run(engine: Engine, call: Callable[[], T], seconds: float) -> T:
    """Run a function in the engine's thread."""
    return (await results(engine, [Job(call=call, on_done=nobody)], seconds))[0]


def nobody(value: Any) -> None:
    """A callback that stands until `events` sets the real one."""


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, but cancel it when the client leaves."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Fault(499, "client_gone", "the client left")
    finally:
        for future in (task, gone):
            future.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
