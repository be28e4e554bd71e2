"""The base of every objective's configuration: a data class beside the objective, with `build()`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from chiasm.core.protocols import Objective


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """What a run minimises.

    Attributes:
        takes: of a batch: ``conversations``, ``pairs``, or whatever (None).
    """

    takes: ClassVar[str | None] = None

    def build(self) -> Objective:
        """The objective, usually an `nn.Module`; see `core.protocols.Objective`."""
        raise NotImplementedError
