"""What is worth keeping, by content and within a number of bytes; the longest unused leaves first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Counts:
    """How a store is used.

    Attributes:
        hits, misses: askings that found something, and that didn't.
        nbytes: bytes held.
        items: things held.
    """

    hits: int = 0
    misses: int = 0
    nbytes: int = 0
    items: int = 0


class Store(Generic[T]):
    """A bounded dictionary.

    Args:
        capacity: most bytes held; 0 = nothing is kept.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.counts = Counts()
        self._held: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held

    def get(self, key: Hashable) -> T | None:
        """What is kept under a key, now the most recently used; None where there is nothing."""
        if key not in self._held:
            self.counts.misses += 1
            return None
        self.counts.hits += 1
        self._held.move_to_end(key)
        return self._held[key][0]

    def put(self, key: Hashable, value: T, nbytes: int) -> None:
        """Keep `value`, which takes `nbytes`, unless it alone is more than the store may hold."""
        if nbytes > self.capacity or key in self._held:
            return
        self._held[key] = (value, nbytes)
        self.counts.nbytes += nbytes
        while self.counts.nbytes > self.capacity:
            _, (_, freed) = self._held.popitem(last=False)
            self.counts.nbytes -= freed
        self.counts.items = len(self._held)
