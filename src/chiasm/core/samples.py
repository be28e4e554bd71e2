"""`Sample`: one row of a data set, whatever its format. Training, checking, evaluation, curation read nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from chiasm.core.messages import Conversation


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands: its file or shard, its key or number there, and the byte it starts at if that is known."""

    source: str
    row: str | int
    offset: int | None = None

    def __str__(self) -> str:
        return f"{self.source}, row {self.row}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One row.

    Attributes:
        key: unique in its data set, and stable: it names the row in logs, skip lists and reports.
        conversation: what the model reads and writes. The assistant's turns are what it learns; a row for
            evaluation ends with the user's turn. A bare pair is a user turn that holds the picture alone.
        place: where the row comes from.
        captions: every caption of the row's picture; empty where there is none.
        annotations: exact truth, by these names where they apply: `kind` (type of question), `answers` (all
            accepted ones), `choices`, `label`, `boxes` (list of `{"box": [x0, y0, x1, y1], "phrase": str}`, original
            pixels), `points` (list of `{"point": [x, y], "phrase": str}`), `spans` (list of `[start, end]`, seconds),
            `split`, `weight`. Other names are kept as they are.
    """

    key: str
    conversation: Conversation
    place: Place
    captions: tuple[str, ...] = ()
    annotations: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Dataset(Protocol):
    """Rows by number, each reachable at once. Reading row `i` twice gives the same sample.

    Attributes:
        name: for people.
        fingerprint: changes whenever a row, or the order of rows, does; resuming and feature stores compare it.
    """

    name: str
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Row `index`; raises a `ChiasmError` that names the place of a row that can't be read."""

    def __iter__(self) -> Iterator[Sample]: ...
