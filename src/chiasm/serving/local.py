"""A model's engine in this very process: work becomes the engine's jobs, results become answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from chiasm.core.replies import Reply
from chiasm.generation.sampling import Sampling
from chiasm.generation.vocabulary import token_bytes
from chiasm.serving.engine import Engine, EngineRefusal, Job
from chiasm.serving.tasks import TASKS
from chiasm.serving.work import Answer, Ask, Card, Chat, Health, Refusal


class LocalHost:
    """A `Host` around an engine.

    Args:
        engine: the engine; it is closed with the host.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        model = engine.model
        self.card = Card(model.family.name, tuple(model.capabilities))
        self._jobs: dict[int, Job] = {}
        self._lock = threading.Lock()

    def submit(self, *asks: Ask) -> None:
        """Take all asks of one request or none; raises Refusal."""
        jobs = [self._job(ask) for ask in asks]
        with self._lock:
            self._jobs |= {id(ask): job for ask, job in zip(asks, jobs, strict=True)}
        try:
            self.engine.submit(*jobs)
        except EngineRefusal as refusal:
            self._forget(*asks)
            raise _told(refusal) from None
        except BaseException:
            self._forget(*asks)
            raise

    def cancel(self, *asks: Ask) -> None:
        """Stop the work; nobody is told any more."""
        for job in self._forget(*asks):
            job.cancelled.set()

    def health(self) -> Health:
        """How the engine is."""
        state = self.engine.health()
        caches = {name: (used.hits, used.misses, used.nbytes) for name, used in state.caches.items()}
        return Health(state.alive, state.waiting, state.active, caches=caches)

    def close(self, seconds: float) -> None:
        """Close the engine."""
        self.engine.close(seconds)

    def _forget(self, *asks: Ask) -> list[Job]:
        with self._lock:
            return [job for ask in asks if (job := self._jobs.pop(id(ask), None)) is not None]

    def _job(self, ask: Ask) -> Job:
        work = ask.work
        assert work is not None

        def done(result: Any) -> None:
            self._forget(ask)
            ask.on_done(self._answer(work, result))

        if isinstance(work, Chat):
            return Job(
                conversation=work.conversation,
                sampling=Sampling(temperature=work.temperature, top_p=work.top_p, seed=work.seed),
                max_new_tokens=work.max_new_tokens,
                stop=work.stop,
                constraint=work.constraint,
                alternatives=work.alternatives,
                on_done=done,
                on_piece=ask.on_piece if work.stream else None,
            )
        call: Callable[[], Any] = partial(TASKS[work.name], self.engine.model, work.request, work.pictures)
        return Job(call=call, on_done=done)

    def _answer(self, work: Any, result: Any) -> Any:
        if isinstance(result, EngineRefusal):
            return _told(result)
        if not isinstance(result, Reply):
            return result
        if not work.tokens:
            return Answer(result)
        told = {index for place in result.alternatives for index, _ in place}
        return Answer(result, {index: self._bytes(index) for index in told.union(result.token_ids)})

    def _bytes(self, index: int) -> bytes:
        """What a token adds to a text; a control token, which adds nothing, is spelled out."""
        name = self.engine.model.processor.tokenizer.id_to_token(index)
        return self._vocabulary[index] or (name or "").encode() if index < len(self._vocabulary) else b""

    @cached_property
    def _vocabulary(self) -> list[bytes]:
        return token_bytes(self.engine.model.processor.tokenizer)


def _told(refusal: EngineRefusal) -> Refusal:
    return Refusal(refusal.code, refusal.what, refusal.retry_after)
