"""Every row proved good before the first step: `check` looks at all of them and says which can't be used, and why.

Rows are looked at in parallel (`looking`), duplicates and overlap are found afterwards over all of them (`prints`).
A row is reported once, for the first of: what makes it unreadable or unusable, an exact duplicate, a near duplicate,
overlap with the evaluation data.

Two rows are duplicates when their words and pictures are equal. A row that is a bare picture with its caption is also
one when its picture is stored a second time under another name, or looks the same as an earlier one's, whatever its
caption; rows that ask about a picture may share it. Several rows may name one stored picture.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chiasm.core.errors import DataError
from chiasm.core.samples import Dataset, Place
from chiasm.data.looking import Look, Looker
from chiasm.data.prints import CELLS, near_pairs
from chiasm.data.rows import place_of

_CHUNK = 32  # rows a worker takes at a time
_AHEAD = 4  # chunks that wait for each worker


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A row, or what should have been one (`index` None), that can't be used."""

    index: int | None
    place: Place
    code: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As `chiasm data check --json` prints it."""
        place = self.place
        return {
            "source": place.source, "row": place.row, "offset": place.offset, "code": self.code, "reason": self.reason,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What `check` found: every row is counted, the bad ones are listed."""

    rows: int
    bad: list[BadRow]
    forecast: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As `chiasm data check --json` prints it."""
        bad = [row.to_json() for row in self.bad]
        return {"rows": self.rows, "good": self.rows - len(bad), "bad": bad, "forecast": self.forecast}


def check(
    dataset: Dataset,
    looker: Looker | None = None,
    *,
    against: Sequence[Dataset] = (),
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Look at every row.

    Args:
        dataset: the data.
        looker: how to look; its processor is the model's own.
        against: evaluation data whose pictures must not be trained on.
        workers: processes; 0 = this one. They fork, so nothing is loaded twice.
        progress: called with (rows looked at, all rows) now and then.

    Returns:
        All rows counted, the bad ones listed in order, and a forecast.

    Raises:
        DataError: a worker died.
    """
    looker = looker or Looker()
    others = [each for each in against if len(each)]
    total = len(dataset) + sum(map(len, others))
    done = 0
    start = time.perf_counter()

    def gather(rows: Dataset, how: Looker) -> list[Look]:
        nonlocal done
        looks: list[Look] = []
        for chunk in _looks(rows, how, workers):
            looks += chunk
            done += len(chunk)
            if progress is not None:
                progress(done, total)
        return looks

    looks = gather(dataset, looker)
    seconds = time.perf_counter() - start
    bad = {index: look.fault for index, look in enumerate(looks) if look.fault is not None}
    good = [index for index in range(len(looks)) if index not in bad]
    names = _Names(dataset)
    pictures = _Pictures([(index, looks[index]) for index in good])
    for index, fault in _duplicates(looks, good, pictures, names).items():
        bad.setdefault(index, fault)
    plain = Looker(evaluation=True)
    for other in others:
        theirs = gather(other, plain)
        for index, fault in _overlap(pictures, theirs, looks, good, other, dataset is other).items():
            bad.setdefault(index, fault)
    listed = [
        BadRow(index=None, place=fault.place, code=fault.code, reason=fault.reason)
        for fault in getattr(dataset, "faults", ())
    ]
    rows = len(looks) + len(listed)
    listed += [
        BadRow(index=index, place=place_of(dataset, index), code=code, reason=reason)
        for index, (code, reason) in sorted(bad.items())
    ]
    kept = [looks[index] for index in good if index not in bad]
    return Report(rows=rows, bad=listed, forecast=forecast(kept, len(looks), seconds))


# --- looking ------------------------------------------------------------------------------------------------

_inherited: tuple[Dataset, Looker] | None = None


def _looks(dataset: Dataset, looker: Looker, workers: int) -> Iterator[list[Look]]:
    chunks = [range(start, min(start + _CHUNK, len(dataset))) for start in range(0, len(dataset), _CHUNK)]
    if workers < 1 or len(chunks) < 2:
        for chunk in chunks:
            yield [looker.look(dataset, index) for index in chunk]
        return
    global _inherited
    _inherited = (dataset, looker)  # workers fork and find it there
    try:
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
            waiting = [(chunk, pool.submit(_look_at, chunk)) for chunk in chunks[: workers * _AHEAD]]
            rest = iter(chunks[workers * _AHEAD :])
            while waiting:
                chunk, future = waiting.pop(0)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    what = (
                        f"a worker died between rows {chunk.start} and {waiting[-1][0].stop if waiting else chunk.stop}"
                    )
                    raise DataError("worker_died", what, hint="--workers 0, which names the row") from None
                if (following := next(rest, None)) is not None:
                    waiting.append((following, pool.submit(_look_at, following)))
    finally:
        _inherited = None


def _one_thread() -> None:
    """Workers share the cores among them; and a thread pool that was forked can't be used."""
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _look_at(chunk: range) -> list[Look]:
    assert _inherited is not None
    dataset, looker = _inherited
    return [looker.look(dataset, index) for index in chunk]


# --- comparing ----------------------------------------------------------------------------------------------


class _Names:
    """Rows as people find them."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> str:
        return str(place_of(self.dataset, index))


class _Pictures:
    """The pictures of some rows as arrays: owner, digest of content, print."""

    def __init__(self, looks: Sequence[tuple[int, Look]]) -> None:
        seen = [(index, picture) for index, look in looks for picture in look.pictures]
        self.owner = np.array([index for index, _ in seen], np.int64)
        self.content = np.array([picture.content for _, picture in seen], np.uint64)
        self.bits = np.array([picture.bits for _, picture in seen], np.uint64)
        self.thumbnails = np.empty((len(seen), CELLS), np.uint8)
        for row, (_, picture) in enumerate(seen):
            self.thumbnails[row] = picture.thumbnail


def _duplicates(
    looks: Sequence[Look], good: Sequence[int], pictures: _Pictures, names: _Names
) -> dict[int, tuple[str, str]]:
    """Later rows that repeat an earlier one."""
    found: dict[int, tuple[str, str]] = {}
    first: dict[Any, int] = {}
    stored: dict[int, tuple[int, int]] = {}
    for index in good:
        look = looks[index]
        contents = tuple(picture.content for picture in look.pictures)
        earlier = first.setdefault((look.words, contents), index)
        if earlier != index:
            found[index] = ("duplicate_exact", f"the same words and pictures as {names[earlier]}")
            continue
        if len(contents) == 1 and not look.asks:
            owner, source = stored.setdefault(contents[0], (index, look.pictures[0].source))
            if source != look.pictures[0].source:
                found[index] = ("duplicate_exact", f"the same picture as {names[owner]}")
    alone = {index for index in good if len(looks[index].pictures) == 1}
    for before, after in near_pairs(pictures.bits, pictures.thumbnails).tolist():
        one, other = int(pictures.owner[before]), int(pictures.owner[after])
        if one == other or other in found or one not in alone or other not in alone:
            continue
        if pictures.content[before] == pictures.content[after]:
            continue  # the same stored picture may be named by many rows
        bare = not looks[one].asks and not looks[other].asks
        if bare or looks[one].words == looks[other].words:
            found[other] = ("duplicate_near", f"its picture looks the same as that of {names[one]}")
    return found


def _overlap(
    ours: _Pictures, looks: Sequence[Look], mine: Sequence[Look], good: Sequence[int], other: Dataset, itself: bool
) -> dict[int, tuple[str, str]]:
    """Rows whose picture, or whose words where there is no picture, stand in the evaluation data."""
    found: dict[int, tuple[str, str]] = {}
    theirs = _Pictures(list(enumerate(looks)))
    names = _Names(other)
    contents = dict(zip(theirs.content.tolist()[::-1], theirs.owner.tolist()[::-1], strict=True))
    for owner, content in zip(ours.owner.tolist(), ours.content.tolist(), strict=True):
        if content in contents and not (itself and contents[content] == owner):
            found.setdefault(owner, ("overlap_exact", f"its picture is that of {names[contents[content]]}"))
    words = {look.words: index for index, look in reversed(list(enumerate(looks))) if not look.pictures and look.words}
    for index in good:
        if not mine[index].pictures and mine[index].words in words:
            found.setdefault(index, ("overlap_exact", f"its words are those of {names[words[mine[index].words]]}"))
    split = len(theirs.owner)
    bits, thumbnails = np.concatenate([theirs.bits, ours.bits]), np.concatenate([theirs.thumbnails, ours.thumbnails])
    joined: dict[int, int] = {}  # print → a print of the evaluation data that it looks the same as
    for before, after in near_pairs(bits, thumbnails).tolist():
        root = before if before < split else joined.get(before)
        if after >= split and root is not None:
            joined.setdefault(after, root)
            owner = int(ours.owner[after - split])
            found.setdefault(
                owner, ("overlap_near", f"its picture looks the same as that of {names[theirs.owner[root]]}")
            )
    return found


# --- forecast -----------------------------------------------------------------------------------------------


def forecast(looks: Sequence[Look], rows: int, seconds: float) -> dict[str, Any]:
    """What an epoch over the good rows takes.

    Args:
        looks: the good rows.
        rows: how many were looked at.
        seconds: that this took.

    Returns:
        `rows`, `pictures`, `tokens` (total, visual, mean, p50, p95, max of a row), `time` (seconds to read and process
        an epoch, rows a second, as measured here) and `memory` (bytes of the largest row's and the mean row's pixels).
    """
    lengths = np.array([look.tokens for look in looks] or [0])
    rate = rows / seconds if seconds > 0 else 0.0
    pixels = np.array([sum(w * h * 3 for w, h in (p.size for p in look.pictures)) for look in looks] or [0])
    return {
        "rows": len(looks),
        "pictures": sum(len(look.pictures) for look in looks),
        "crops": sum(look.crops for look in looks),
        "tokens": {
            "total": int(lengths.sum()),
            "visual": sum(look.visual for look in looks),
            "mean": round(float(lengths.mean()), 1),
            "p50": int(np.percentile(lengths, 50)),
            "p95": int(np.percentile(lengths, 95)),
            "max": int(lengths.max()),
        },
        "time": {
            "rows_per_second": round(rate, 1),
            "epoch_seconds": round(len(looks) / rate, 1) if rate else 0.0,
            "checked_seconds": round(seconds, 1),
        },
        "memory": {"decoded_bytes_mean": int(pixels.mean()), "decoded_bytes_max": int(pixels.max())},
    }
