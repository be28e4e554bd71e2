"""Where batches come from: numbered, so that a run can go on at any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


class Feed(Protocol):
    """Batches by number. Batch `n` is the same whenever it's asked for, and they're asked for in order.

    Attributes:
        fingerprint: changes whenever a batch would; a run goes on only with the one it began with.
    """

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, number: int) -> Any:
        """Batch `number`, from 0; this process's part of it."""

    def keys(self, number: int) -> Sequence[str]:
        """The keys of that batch's samples, which name it when something is wrong with it."""

    def state(self) -> Mapping[str, Any]:
        """What a checkpoint keeps, as JSON values."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint kept."""


class Numbered:
    """A feed that is a function of a batch's number, and nothing else.

    Args:
        make: number → batch.
        fingerprint: of everything that batches depend on.
    """

    def __init__(self, make: Callable[[int], Any], fingerprint: str = "") -> None:
        self.make, self.fingerprint = make, fingerprint

    def __call__(self, number: int) -> Any:
        """Batch `number`."""
        return self.make(number)

    def keys(self, number: int) -> Sequence[str]:
        """The batch's number: it has no other name."""
        return (f"batch {number}",)

    def state(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to do."""
