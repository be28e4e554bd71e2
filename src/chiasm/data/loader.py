"""`Loader`: batch number → batch, a pure function of data, seed and number.

Which rows a batch holds is arithmetic (`mixtures`), so training resumes anywhere, and with any number of workers, with
the same batches. A row that can't be read or used is left out: counted, reported with its place, and another row of the
same data set stands in for it, chosen by the bad row alone. More bad rows than allowed stop the run.

Length bucketing: the rows of `WINDOW` batches that follow one another are sorted by length, cut into batches, and the
batches shuffled. Every row still comes once an epoch (to within a window).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Any

from chiasm.core.errors import ChiasmError, DataError
from chiasm.core.messages import ImagePart, TextPart
from chiasm.core.samples import Dataset, Place, Sample
from chiasm.data.augmentation import Augment
from chiasm.data.mixtures import Draw, Mixture
from chiasm.data.order import Permutation, mixed
from chiasm.data.workers import Workers

WINDOW = 64  # batches that are sorted by length together
TRIES = 32  # rows that may stand in for a bad one, one after the other


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out: where it stands and why; `row` is negative for what never became one."""

    source: int
    row: int
    place: Place
    code: str
    reason: str


@dataclass(slots=True)
class Prepared:
    """What a worker sends: a batch, its rows' keys and the bad rows met on the way, or the failure that ended it."""

    batch: Any = None
    keys: tuple[str, ...] = ()
    bad: list[BadRow] = field(default_factory=list)
    failure: tuple[str, str, str | None] | None = None


class Loader:
    """Batches by number.

    Args:
        source: one data set or a mixture.
        collate: samples → a batch; must not depend on anything but the samples and torch's generator, which is
            seeded for every batch.
        batch_size: rows of a batch, over all ranks.
        seed: of the order; a mixture's own seed counts beside it.
        workers: processes that prepare batches ahead; 0 = none. They fork at the first call.
        max_bad: largest share of the data's rows that may be bad.
        lengths: for each data set the length of every row: rows of like length share a batch. None = no bucketing.
        skip: rows to leave out unseen and uncounted, as (place's source, row as text): a skip list.
        report: called once for each bad row.
        rank, world: this process gets the `rank`-th of `world` equal parts of every batch.
        augment: changes every sample's pictures, by seed and place in the stream; None = they are shown as they are.

    Raises:
        DataError: the batch can't be cut into `world` equal parts, or lengths don't fit the data.
    """

    def __init__(
        self,
        source: Dataset | Mixture,
        collate: Callable[[Sequence[Sample]], Any],
        *,
        batch_size: int,
        seed: int = 0,
        workers: int = 0,
        max_bad: float = 0.01,
        lengths: Sequence[Sequence[int]] | None = None,
        skip: Collection[tuple[str, str]] = (),
        report: Callable[[BadRow], None] | None = None,
        rank: int = 0,
        world: int = 1,
        augment: Augment | None = None,
    ) -> None:
        self.mixture = source if isinstance(source, Mixture) else Mixture([(source, 1.0)], seed)
        self.collate, self.batch_size, self.seed, self.max_bad = collate, batch_size, seed, max_bad
        if batch_size < 1 or batch_size % world:
            raise DataError("batch_ragged", f"a batch of {batch_size} rows can't be cut into {world} equal parts")
        if lengths is not None:
            given, wanted = [len(each) for each in lengths], [len(each) for each in self.mixture.datasets]
            if given != wanted:
                raise DataError("lengths_count", f"lengths of {given} rows, the data sets have {wanted}")
        self.lengths, self.skip, self.report = lengths, frozenset(skip), report
        self.rank, self.world, self.augment = rank, world, augment
        self._bad: dict[tuple[int, int], BadRow] = {}
        self._workers: Workers | None = None
        self._count = workers
        self._window = lru_cache(maxsize=4)(self._sorted_window)
        for number, dataset in enumerate(self.mixture.datasets):
            for place, fault in enumerate(getattr(dataset, "faults", ()), 1):  # known at opening, and no rows
                self._quarantine(BadRow(number, -place, fault.place, fault.code, fault.reason))

    @property
    def fingerprint(self) -> str:
        """Changes whenever a batch would."""
        bucketing = None if self.lengths is None else [mixed(repr(list(each))) for each in self.lengths]
        skipped = mixed(repr(sorted(self.skip)))
        changes = () if self.augment is None else (repr(self.augment),)
        return f"{mixed(self.mixture.fingerprint, self.seed, self.batch_size, repr(bucketing), skipped, *changes):016x}"

    @property
    def bad(self) -> list[BadRow]:
        """The bad rows met so far."""
        return list(self._bad.values())

    def draws(self, number: int) -> list[Draw]:
        """The rows of batch `number`, of all ranks, before any bad one is replaced."""
        if self.lengths is not None:
            window, place = divmod(number, WINDOW)
            return self._window(window)[place]
        start = number * self.batch_size
        return [self.mixture[position] for position in range(start, start + self.batch_size)]

    def __call__(self, number: int) -> Any:
        """Batch `number`, from 0; this rank's part of it.

        Raises:
            DataError: see `prepared`.
        """
        return self.prepared(number).batch

    def prepared(self, number: int) -> Prepared:
        """Batch `number` with its rows' keys, stand-ins included.

        Raises:
            DataError: more bad rows than allowed, a batch that can't be put together though each of its rows can, a
                row that fails in an unforeseen way, or a worker that died.
        """
        if self._count:
            if self._workers is None:
                self._workers = Workers(self._prepare, self._count)
            prepared = self._workers(number)
        else:
            prepared = self._prepare(number)
        for row in prepared.bad:
            self._quarantine(row)
        if prepared.failure is not None:
            code, what, hint = prepared.failure
            raise DataError(code, what, hint=hint)
        return prepared

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON values: the bad rows counted so far."""
        rows = [[b.source, b.row, b.place.source, b.place.row, b.place.offset, b.code, b.reason] for b in self.bad]
        return {"fingerprint": self.fingerprint, "bad": rows}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on counting where a checkpoint stopped.

        Raises:
            DataError: the checkpoint was made with other data, another order or another batch size.
        """
        if state["fingerprint"] != self.fingerprint:
            what = f"the checkpoint's data and order are {state['fingerprint']}, these are {self.fingerprint}"
            raise DataError("data_changed", what, hint="the same data, seed and batch size, or another --out folder")
        rows = [BadRow(source, row, Place(*place), code, reason) for source, row, *place, code, reason in state["bad"]]
        self._bad = {(bad.source, bad.row): bad for bad in rows}

    def close(self) -> None:
        """End the workers; the next call starts new ones."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # Order

    def _sorted_window(self, window: int) -> list[list[Draw]]:
        assert self.lengths is not None
        start = window * WINDOW * self.batch_size
        draws = [self.mixture[position] for position in range(start, start + WINDOW * self.batch_size)]
        draws.sort(key=lambda draw: self.lengths[draw.source][draw.row])  # type: ignore[index]
        batches = [draws[at : at + self.batch_size] for at in range(0, len(draws), self.batch_size)]
        order = Permutation(WINDOW, self.seed, "window", window)
        return [batches[order[place]] for place in range(WINDOW)]

    def _stand_in(self, bad: Draw, attempt: int) -> Draw:
        """The `attempt`-th row in place of a bad one, itself at 0; it depends on that row alone."""
        if not attempt:
            return bad
        return Draw(bad.source, mixed(self.seed, *bad, attempt) % len(self.mixture.datasets[bad.source]))

    # Preparing, in whatever process

    def _prepare(self, number: int) -> Prepared:
        prepared = Prepared()
        try:
            part = self.batch_size // self.world
            first = self.rank * part
            draws = self.draws(number)[first : first + part]
            with _generator(mixed(self.seed, number, self.rank)):
                prepared.batch, prepared.keys = self._collated(draws, prepared.bad, number * self.batch_size + first)
        except ChiasmError as error:
            prepared.failure = error.code, f"batch {number}: {error.what}", error.hint
        except Exception as error:  # a bug of ours or of a reader: said in one line wherever it happened
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
            prepared.failure = "batch_failed", f"batch {number}: {type(error).__name__}: {error} ({where})", None
        return prepared

    def _collated(self, draws: Sequence[Draw], bad: list[BadRow], position: int) -> tuple[Any, tuple[str, ...]]:
        slots = [self._good(draw, 0, bad) for draw in draws]
        for _ in range(TRIES):
            samples = [self._shown(sample, position + at) for at, (_, _, sample) in enumerate(slots)]
            try:
                return self.collate(samples), tuple(sample.key for sample in samples)
            except ChiasmError:
                refused = [self._refusal(sample) for sample in samples]
                if not any(refused):
                    raise
                for at, error in enumerate(refused):
                    if error is not None:
                        first, attempt, sample = slots[at]
                        bad.append(_bad_row(self._stand_in(first, attempt), sample.place, error))
                        slots[at] = self._good(first, attempt + 1, bad)
        raise DataError("rows_unusable", f"{TRIES} rows in turn could not be used", hint="chiasm data check DATA")

    def _shown(self, sample: Sample, position: int) -> Sample:
        return sample if self.augment is None else self.augment.sample(sample, self.seed, position)

    def _refusal(self, sample: Sample) -> ChiasmError | None:
        try:
            self.collate([sample])
        except ChiasmError as error:
            return error
        return None

    def _good(self, draw: Draw, attempt: int, bad: list[BadRow]) -> tuple[Draw, int, Sample]:
        """The first readable row of `draw` and its stand-ins, from `attempt` on."""
        for each in range(attempt, TRIES):
            tried = self._stand_in(draw, each)
            dataset = self.mixture.datasets[tried.source]
            try:
                sample = dataset[tried.row]
            except (ChiasmError, OSError) as error:
                bad.append(_bad_row(tried, Place(dataset.name, tried.row), error))
                continue
            if (sample.place.source, str(sample.place.row)) not in self.skip:
                return draw, each, sample
        name = self.mixture.datasets[draw.source].name
        raise DataError(
            "rows_unusable", f"{name}: {TRIES} rows in turn could not be used", hint=f"chiasm data check {name}"
        )

    def _quarantine(self, row: BadRow) -> None:
        if (row.source, row.row) in self._bad:
            return
        self._bad[row.source, row.row] = row
        if self.report is not None:
            self.report(row)
        total = self.mixture.rows
        if len(self._bad) > self.max_bad * total:
            what = f"{len(self._bad)} of {total} rows are bad, at most {self.max_bad:.2%} may be"
            hint = "chiasm data check DATA, or a larger --max-bad"
            raise DataError("too_many_bad_rows", f"{what}; the last is {row.place}: {row.reason}", hint=hint)


def text_lengths(dataset: Dataset, per_picture: int = 0) -> list[int]:
    """A length for every row, for bucketing: letters of its texts, 4 of which count as a token, and its pictures.

    Args:
        dataset: read once, whole; no picture is opened.
        per_picture: visual tokens of a picture.

    Returns:
        Lengths in tokens, roughly; 0 for a row that can't be read.
    """
    return [_length(dataset, row, per_picture) for row in range(len(dataset))]


def _length(dataset: Dataset, row: int, per_picture: int) -> int:
    try:
        parts = [part for message in dataset[row].conversation.messages for part in message.parts]
    except ChiasmError:
        return 0
    letters = sum(len(part.text) for part in parts if isinstance(part, TextPart))
    return letters // 4 + per_picture * sum(isinstance(part, ImagePart) for part in parts)


def _bad_row(draw: Draw, place: Place, error: Exception) -> BadRow:
    if isinstance(error, ChiasmError):
        return BadRow(*draw, place, error.code, error.what)
    return BadRow(*draw, place, "file", f"{type(error).__name__}: {error}")


@contextmanager
def _generator(seed: int) -> Iterator[None]:
    """Torch's CPU generator at a seed, and afterwards as it was: what workers draw, nobody else feels."""
    import torch

    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed & (1 << 63) - 1)
    try:
        yield
    finally:
        torch.set_rng_state(before)
