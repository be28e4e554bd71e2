"""What generation and scoring give back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request; picture tokens are part of the prompt's."""

    prompt_tokens: int
    completion_tokens: int
    image_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """One generated answer.

    Attributes:
        text: decoded, without control tokens and without the stop string that ended it.
        token_ids: generated ids, the ending token not counted.
        logprobs: natural-log probability of each id under the model (temperature 1, no truncation).
        finish_reason: ``stop`` (the model ended or a stop string came) or ``length``.
        usage: token counts.
        alternatives: of each id's place the most probable ids and their log-probabilities; empty unless asked for.
    """

    text: str
    token_ids: Sequence[int]
    logprobs: Sequence[float]
    finish_reason: str
    usage: Usage
    alternatives: Sequence[Sequence[tuple[int, float]]] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """Likelihood of one given answer: its ids, their log-probabilities and the sum."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]

    @property
    def total(self) -> float:
        """Sum of the log-probabilities."""
        return float(sum(self.logprobs))


@dataclass(frozen=True, slots=True)
class Region:
    """A place in a picture.

    Attributes:
        box: (x0, y0, x1, y1) in original pixels; None where only a point is known.
        point: (x, y) in original pixels; None where only a box is known.
        score: 0..1.
        phrase: what is there.
    """

    box: tuple[float, float, float, float] | None
    point: tuple[float, float] | None
    score: float
    phrase: str


@dataclass(frozen=True, slots=True)
class Grounding:
    """Where a phrase is.

    Attributes:
        regions: best first.
        heat: (rows, columns) of numbers 0..1 over the whole picture, for families that ground by a heat map.
        size: (width, height) of the picture.
        text: the reply that places were read off, for families that write them.
        unread: pieces of it that look like places and aren't.
        clipped: how many regions reached beyond the picture and were cut.
    """

    regions: Sequence[Region]
    size: tuple[int, int]
    heat: Any = None
    text: str = ""
    unread: Sequence[str] = ()
    clipped: int = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """A span of a video: (start, end) in seconds from its first frame, a score 0..1, and what happens then."""

    span: tuple[float, float]
    score: float
    phrase: str


@dataclass(frozen=True, slots=True)
class Located:
    """When something happens.

    Attributes:
        moments: best first; iterating gives them.
        duration: seconds of the video.
        text: the reply that times were read off.
        unread: pieces of it that look like moments and aren't.
        clipped: how many moments reached beyond the video and were cut.
    """

    moments: Sequence[Moment]
    duration: float
    text: str = ""
    unread: Sequence[str] = ()
    clipped: int = 0

    def __iter__(self) -> Iterator[Moment]:
        return iter(self.moments)

    def __len__(self) -> int:
        return len(self.moments)
