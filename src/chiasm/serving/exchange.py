"""Between the event loop and an engine: events come over, a timeout or a client's leaving goes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import Request

from chiasm.serving.faults import Fault
from chiasm.serving.work import Ask, Chat, Host, Task

T = TypeVar("T")


async def events(host: Host, works: Sequence[Chat | Task], seconds: float) -> AsyncGenerator[tuple[int, Any], None]:
    """Do the work of one request; leaving the iteration cancels what isn't done.

    Args:
        host: where it is done.
        works: all of it.
        seconds: for all of it.

    Yields:
        (work, piece of text) as text comes, and (work, result) once it is done.
    """
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Any, bool]]()

    def teller(index: int, last: bool) -> Callable[[Any], None]:
        def tell(value: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever waited
                loop.call_soon_threadsafe(queue.put_nowait, (index, value, last))

        return tell

    asks = [Ask(work, teller(index, True), teller(index, False)) for index, work in enumerate(works)]
    deadline, open_asks = loop.time() + seconds, len(asks)
    try:
        host.submit(*asks)
        while open_asks:
            index, value, last = await asyncio.wait_for(queue.get(), deadline - loop.time())
            if isinstance(value, BaseException):
                raise value
            open_asks -= last
            yield index, value
    finally:
        host.cancel(*asks)


async def results(host: Host, works: Sequence[Chat | Task], seconds: float) -> list[Any]:
    """Do the work of one request and give its results, in order."""
    found: dict[int, Any] = {}
    async with contextlib.aclosing(events(host, works, seconds)) as stream:
        async for index, value in stream:
            found[index] = value
    return [found[index] for index in range(len(works))]


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
