"""What every reader gives back: rows by number, each with a place that is known without reading it."""

from __future__ import annotations

import bisect
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from chiasm.core.errors import ChiasmError, DataError
from chiasm.core.messages import Conversation
from chiasm.core.samples import Dataset, Place, Sample
from chiasm.data.stamps import digest_of


def blank(text: str) -> bool:
    """Whether a text shows nothing: white space, controls and characters without width alone."""
    return all(unicodedata.category(letter) in ("Zs", "Zl", "Zp", "Cc", "Cf") for letter in text)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that can't be used: where it stands, a stable code, and why."""

    place: Place
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What a reader makes of one row, before the row gets its key and place."""

    conversation: Conversation
    captions: tuple[str, ...] = ()
    annotations: Mapping[str, Any] = field(default_factory=dict)


class Rows(ABC):
    """Rows by number; the base of every reader's data set.

    Attributes:
        name: for people.
        fingerprint: changes whenever a row, or the order of rows, does.
        faults: what could be told to be unusable when the data was opened; those are no rows.
    """

    name: str
    fingerprint: str
    faults: tuple[Fault, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def place(self, index: int) -> Place:
        """Where row `index` stands; nothing is read."""

    @abstractmethod
    def key(self, index: int) -> str:
        """The key of row `index`; nothing is read."""

    @abstractmethod
    def content(self, index: int) -> Content:
        """Row `index`, 0 ≤ index < len; raises a `ChiasmError` that needn't name the place."""

    def __getitem__(self, index: int) -> Sample:
        """Row `index`; raises a `ChiasmError` that names the place of a row that can't be read."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self.name}")
        index %= len(self)
        place = self.place(index)
        try:
            content = self.content(index)
            _check_text(content)
        except ChiasmError as error:
            raise type(error)(error.code, f"{place}: {error.what}", hint=error.hint) from None
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OSError) as error:
            # a row of the right form with something else inside: one bad row, never the end of a run
            what = f"{place}: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
            raise DataError("row_malformed", what) from error
        return Sample(
            key=self.key(index),
            conversation=content.conversation,
            place=place,
            captions=content.captions,
            annotations=content.annotations,
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, rows={len(self):,}, faults={len(self.faults):,})"


def _check_text(content: Content) -> None:
    """Refuse halves of surrogate pairs, which JSON's escapes can spell and no tokenizer takes."""
    texts = [message.text for message in content.conversation.messages]
    try:
        "".join((*texts, *content.captions)).encode()
    except UnicodeEncodeError as error:
        what = f"the row's text holds half a character, U+{ord(error.object[error.start]):04X}"
        raise DataError("text_encoding", what) from None


def readable_rows(dataset: Dataset) -> tuple[Iterator[Sample], list[Fault]]:
    """Every row that can be read, once, in order; and a list that fills with the others as they are met.

    Args:
        dataset: any data set.

    Returns:
        The samples, and the faults: those known at opening at once, those of rows as the iterator passes them.
    """
    faults = list(getattr(dataset, "faults", ()))

    def walk() -> Iterator[Sample]:
        for index in range(len(dataset)):
            try:
                yield dataset[index]
            except ChiasmError as error:
                faults.append(Fault(place_of(dataset, index), error.code, error.what))

    return walk(), faults


def place_of(dataset: Dataset, index: int) -> Place:
    """Where a row stands, by the data set itself or, for one that can't tell, by its name and number."""
    place = getattr(dataset, "place", None)
    return place(index) if place is not None else Place(dataset.name, index)


class Chosen:
    """Some rows of a data set, in a given order.

    Args:
        base: the data set.
        indices: which rows, in which order.
        faults: what is still to be reported of the base's; None = all of them.
    """

    def __init__(self, base: Dataset, indices: Sequence[int], faults: Sequence[Fault] | None = None) -> None:
        self.base, self.indices = base, list(indices)
        self.name = base.name
        self.faults: tuple[Fault, ...] = tuple(getattr(base, "faults", ()) if faults is None else faults)
        self.fingerprint = digest_of("chosen", base.fingerprint, *self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        """Row `index` of the chosen ones; raises what the base raises."""
        return self.base[self.indices[index]]

    def __iter__(self) -> Iterator[Sample]:
        return (self.base[index] for index in self.indices)

    def place(self, index: int) -> Place:
        """Where row `index` stands."""
        return place_of(self.base, self.indices[index])


class Joined:
    """Several data sets, one after the other.

    Args:
        parts: the data sets; keys are made unique by the part's name where a name is given twice, by its number.
        weights: how often a row of each part counts; rows carry it as the annotation `weight` unless it is 1.

    Attributes:
        starts: the first row of each part, and the total last.
    """

    def __init__(self, parts: Sequence[Dataset], weights: Sequence[float] | None = None) -> None:
        if not parts:
            raise DataError("data_empty", "0 data sets given, at least 1 is needed")
        self.parts = tuple(parts)
        self.weights = tuple(weights or (1.0,) * len(self.parts))
        self.starts = [0]
        for part in self.parts:
            self.starts.append(self.starts[-1] + len(part))
        names = [part.name for part in self.parts]
        self._prefixes = [
            name if names.count(name) == 1 else f"{name}#{position}" for position, name in enumerate(names)
        ]
        self.name = " + ".join(names)
        self.faults: tuple[Fault, ...] = tuple(fault for part in self.parts for fault in getattr(part, "faults", ()))
        self.fingerprint = digest_of("joined", *(part.fingerprint for part in self.parts), *self.weights)

    def __len__(self) -> int:
        return self.starts[-1]

    def _find(self, index: int) -> tuple[int, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self.name}")
        index %= len(self)
        part = bisect.bisect_right(self.starts, index) - 1  # the last of equal starts: empty parts are passed over
        return part, index - self.starts[part]

    def __getitem__(self, index: int) -> Sample:
        """Row `index` of all parts; raises what its part raises."""
        part, row = self._find(index)
        sample = self.parts[part][row]
        weight = self.weights[part]
        extra = {} if weight == 1 else {"weight": weight}
        return replace(sample, key=f"{self._prefixes[part]}/{sample.key}", annotations={**sample.annotations, **extra})

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def place(self, index: int) -> Place:
        """Where row `index` stands."""
        part, row = self._find(index)
        return place_of(self.parts[part], row)
