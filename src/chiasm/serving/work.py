"""What the application asks of a model's engine, as plain values that another process can be sent.

Nothing here, nor in anything that the application imports, loads torch: the models live in processes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from chiasm.core.constraints import Constraint
from chiasm.core.errors import ChiasmError
from chiasm.core.messages import Conversation
from chiasm.core.replies import Reply


class Refusal(ChiasmError):
    """No answer: for now (engine_busy, engine_starting), any more (engine_lost), or for good (engine_closed).

    Args:
        code: which.
        what: why, with both numbers where there are two.
        retry_after: seconds after which to come back.
    """

    def __init__(self, code: str, what: str, retry_after: int = 1) -> None:
        super().__init__(code, what)
        self.retry_after = retry_after


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """One reply to write.

    Attributes:
        conversation: what to answer.
        temperature, top_p, seed, max_new_tokens, stop, constraint: as in `Model.generate`.
        stream: pieces of text are told as they come.
        tokens: the answer spells every token.
        alternatives: as in `generation.requests.Request`; they are spelled, too.
    """

    conversation: Conversation
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    stream: bool = False
    tokens: bool = False
    alternatives: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """Anything else of a model: the name of one of `tasks.TASKS`, the client's request, and its pictures."""

    name: str
    request: Any
    pictures: Sequence[Any] = ()


@dataclass(eq=False, slots=True)
class Ask:
    """One piece of work and who waits for it.

    Attributes:
        work: what to do; None once it is cancelled.
        on_done: called once, from any thread, with an `Answer` or a document's bytes, or the exception.
        on_piece: called with each piece of a streamed reply's text.
    """

    work: Chat | Task | None
    on_done: Callable[[Any], None]
    on_piece: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, and by id the bytes that each of its tokens stands for, where they were asked for."""

    reply: Reply
    spelled: Mapping[int, bytes] | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """What a served model is: its family and what it can do."""

    family: str
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Health:
    """How an engine is.

    Attributes:
        alive: it runs and makes progress.
        waiting: requests in its queue.
        active: requests being worked on.
        restarts: how often its process was started anew.
        caches: hits, misses and bytes held of what is kept between requests, by name.
    """

    alive: bool
    waiting: int
    active: int
    restarts: int = 0
    caches: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)


class Host(Protocol):
    """What the application sees of one model."""

    @property
    def card(self) -> Card:
        """What the model is."""

    def submit(self, *asks: Ask) -> None:
        """Take all asks of one request or none; raises Refusal."""

    def cancel(self, *asks: Ask) -> None:
        """Stop the work; nobody is told any more."""

    def health(self) -> Health:
        """How the engine is, without waiting for it."""

    def close(self, seconds: float) -> None:
        """Take no more, finish what is in hand for up to `seconds`, refuse the rest."""
