"""Mixtures: several data sets as one endless stream, in which any position is known at once.

The stream is cut into blocks of `BLOCK` positions. How many of a block's positions a data set gets follows from its
share by rounding the running total, so that over any stretch every data set, however small, is drawn as often as its
share says to within one row (and a block); inside a block the data sets are shuffled. A data set's own rows come in
random permutations, one an epoch of that data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from chiasm.core.errors import DataError
from chiasm.core.samples import Dataset
from chiasm.data.order import Permutation, mixed

BLOCK = 1024


class Draw(NamedTuple):
    """One position of the stream: which data set, and which of its rows."""

    source: int
    row: int


class Mixture:
    """An endless stream of rows.

    Args:
        sources: data sets and their weights. A row of a data set with weight 2 is drawn twice as often as a row of
            one with weight 1; with equal weights every row is drawn equally often.
        seed: of every order.

    Raises:
        DataError: no data set, one without rows, or a weight that isn't above 0.
    """

    def __init__(self, sources: Sequence[tuple[Dataset, float]], seed: int = 0) -> None:
        if not sources:
            raise DataError("mixture_empty", "0 data sets given, at least 1 needed")
        for dataset, weight in sources:
            if not len(dataset):
                raise DataError("dataset_empty", f"{dataset.name} has 0 rows, at least 1 needed")
            if not 0 < weight < float("inf"):
                raise DataError("mixture_weight", f"{dataset.name} has weight {weight}, needs one above 0")
        self.datasets = tuple(dataset for dataset, _ in sources)
        self.weights = tuple(float(weight) for _, weight in sources)
        self.seed = seed
        masses = [weight * len(dataset) for dataset, weight in zip(self.datasets, self.weights, strict=True)]
        self.shares = tuple(mass / sum(masses) for mass in masses)
        self._largest = max(range(len(masses)), key=masses.__getitem__)
        self._block = lru_cache(maxsize=8)(self._draw_block)
        self._permutation = lru_cache(maxsize=64)(self._permute)

    @property
    def rows(self) -> int:
        """Rows of all data sets together."""
        return sum(len(dataset) for dataset in self.datasets)

    @property
    def fingerprint(self) -> str:
        """Changes whenever the stream does."""
        parts = [(d.fingerprint, len(d), w) for d, w in zip(self.datasets, self.weights, strict=True)]
        return f"{mixed(self.seed, repr(parts)):016x}"

    def __getitem__(self, position: int) -> Draw:
        """The row at a position of the stream, from 0."""
        if len(self.datasets) == 1:
            return self._row(0, position)
        source, nth = self._block(position // BLOCK)[position % BLOCK]
        return self._row(source, nth)

    def _row(self, source: int, nth: int) -> Draw:
        epoch, place = divmod(nth, len(self.datasets[source]))
        return Draw(source, self._permutation(source, epoch)[place])

    def _permute(self, source: int, epoch: int) -> Permutation:
        return Permutation(len(self.datasets[source]), self.seed, source, epoch)

    def _before(self, block: int) -> list[int]:
        """How often each data set was drawn before a block. The phases keep small ones from all coming at once."""
        counts = [
            int(block * BLOCK * share + mixed(self.seed, source, "phase") / 2**64)
            for source, share in enumerate(self.shares)
        ]
        counts[self._largest] = 0
        counts[self._largest] = block * BLOCK - sum(counts)
        return counts

    def _draw_block(self, block: int) -> list[tuple[int, int]]:
        """For every position of a block, the data set and how many of its rows the stream held before."""
        before, after = self._before(block), self._before(block + 1)
        draws = [
            (source, nth)
            for source, (start, stop) in enumerate(zip(before, after, strict=True))
            for nth in range(start, stop)
        ]
        assert len(draws) == BLOCK, f"{len(draws)} rows in a block of {BLOCK}"
        order = Permutation(BLOCK, self.seed, "block", block)
        return [draws[order[position]] for position in range(BLOCK)]
