"""What a task gives: turns about pictures, with the exact truth beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chiasm.core.media import LazyPicture
from chiasm.core.messages import ImagePart, Part, TextPart, VideoPart
from chiasm.data.worlds.director import Director


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user shows and asks, and the right answer."""

    asked: tuple[Part, ...]
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sample of a task; `truth` holds further annotations."""

    kind: str
    turns: tuple[Turn, ...]
    captions: tuple[str, ...] = ()
    truth: Mapping[str, Any] = field(default_factory=dict)


Task = Callable[[Director], Row]


def ask(kind: str, pictures: LazyPicture | Sequence[LazyPicture], question: str, answer: str, **truth: Any) -> Row:
    """One question about one or several pictures."""
    shown = [pictures] if isinstance(pictures, LazyPicture) else list(pictures)
    parts: tuple[Part, ...] = (*(ImagePart(picture) for picture in shown), TextPart(question))
    return Row(kind=kind, turns=(Turn(parts, answer),), truth=truth)


def watch(kind: str, film: Any, question: str, answer: str, fps: float, **truth: Any) -> Row:
    """One question about a film."""
    return Row(kind=kind, turns=(Turn((VideoPart(film, fps), TextPart(question)), answer),), truth=truth)
