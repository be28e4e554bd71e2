"""Encoded documents as batches of rows: whole documents, each beginning its row, rows of like length together.

A told scene stands at the beginning of its row as a picture will stand at the beginning of a conversation, and nothing
before it can be mistaken for it. Which documents make batch `number` is a function of the number.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from chiasm.data.text.tokens import Encoded

POOL = 512  # documents that are sorted by length together


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch, padded.

    Attributes:
        ids: (B, T) tokens.
        weights: (B, T) float32, how much predicting each of them counts; 0 where a row is padded.
        shown: (B, T) bool, what stands where visual tokens will.
    """

    ids: torch.Tensor
    weights: torch.Tensor
    shown: torch.Tensor


class Packed:
    """Documents one after the other in three flat arrays, so that a file can hold them.

    Args:
        ids, weights, shown: (n,) of all documents.
        ends: (N,) where each document ends.
    """

    def __init__(self, ids: np.ndarray, weights: np.ndarray, shown: np.ndarray, ends: np.ndarray) -> None:
        self.ids, self.weights, self.shown, self.ends = ids, weights, shown, ends
        self.starts = np.concatenate(([0], ends[:-1]))

    @classmethod
    def of(cls, documents: Sequence[Encoded]) -> Packed:
        """The documents in their order."""
        ends = np.cumsum([len(document.ids) for document in documents], dtype=np.int64)
        flat = (np.array([x for document in documents for x in document[field]]) for field in range(3))
        ids, weights, shown = flat
        return cls(ids.astype(np.uint16), weights.astype(np.uint8), shown.astype(bool), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def lookups(self) -> list[int]:
        """Numbers of the documents that begin with what is shown: scenes with keys to look up, and no turns."""
        return [number for number, start in enumerate(self.starts) if self.shown[start]]

    def rows(self, numbers: Sequence[int]) -> Rows:
        """Some documents, padded to the longest."""
        length = int(max(self.ends[number] - self.starts[number] for number in numbers))
        ids = np.zeros((len(numbers), length), np.int64)
        weights, shown = np.zeros(ids.shape, np.float32), np.zeros(ids.shape, bool)
        for row, number in enumerate(numbers):
            where = slice(self.starts[number], self.ends[number])
            size = where.stop - where.start
            ids[row, :size], weights[row, :size] = self.ids[where], self.weights[where]
            shown[row, :size] = self.shown[where]
        return Rows(torch.from_numpy(ids), torch.from_numpy(weights), torch.from_numpy(shown))


class Batches:
    """Batches by number: each epoch in an order of its own.

    Args:
        packed: the documents.
        tokens: of a batch, padding included; a longer document makes a batch by itself.
        seed: of the order.
        only: numbers of the documents that are taken; None = all.
    """

    def __init__(self, packed: Packed, tokens: int, seed: int, only: Sequence[int] | None = None) -> None:
        self.packed, self.tokens, self.seed = packed, tokens, seed
        self.taken = range(len(packed)) if only is None else only
        assert self.taken, "no documents"
        self._planned: list[list[int]] = []
        self._epochs = 0

    def __call__(self, number: int) -> Rows:
        """Batch `number`."""
        while len(self._planned) <= number:
            self._planned += self._epoch(self._epochs)
            self._epochs += 1
        return self.packed.rows(self._planned[number])

    def _epoch(self, epoch: int) -> list[list[int]]:
        rng = random.Random(f"rows {self.seed} {epoch}")
        order = list(self.taken)
        rng.shuffle(order)
        sizes = self.packed.ends - self.packed.starts
        found: list[list[int]] = []
        for first in range(0, len(order), POOL):
            pool = sorted(order[first : first + POOL], key=lambda number: (sizes[number], number))
            batches: list[list[int]] = [[]]
            for number in pool:
                if batches[-1] and (len(batches[-1]) + 1) * sizes[number] > self.tokens:
                    batches.append([])
                batches[-1].append(number)
            rng.shuffle(batches)
            found += batches
        return found
