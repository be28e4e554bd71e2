"""Where batches come from: numbered, so that a run can go on at any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Fed:
    """One batch, and the keys of its samples, which name it when something is wrong with it."""

    batch: Any
    keys: Sequence[str] = ()


class Feed(Protocol):
    """Batches by number. Batch `n` is the same whenever and from wherever it's asked for.

    Attributes:
        fingerprint: changes whenever a batch would; a run goes on only with the one it began with.
    """

    fingerprint: str

    def batches(self, start: int) -> Iterator[Fed]:
        """The batches from number `start` on, without end."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """A feed that is a function of a batch's number."""

    make: Callable[[int], Any]
    fingerprint: str = ""

    def batches(self, start: int) -> Iterator[Fed]:
        """The batches from number `start` on, without end."""
        number = start
        while True:
            yield Fed(self.make(number))
            number += 1
