"""Permutations known at every position, and mixtures that keep their shares."""

from collections import Counter

import pytest

from chiasm.core.errors import DataError
from chiasm.data.mixtures import BLOCK, Mixture
from chiasm.data.order import Permutation


class Rows:
    def __init__(self, name: str, count: int) -> None:
        self.name, self.fingerprint, self.count = name, f"{name}{count}", count

    def __len__(self) -> int:
        return self.count


@pytest.mark.parametrize("length", [1, 2, 3, 16, 17, 1000, 4097])
def test_every_number_comes_once(length: int) -> None:
    order = Permutation(length, 7, 0)
    assert sorted(order[i] for i in range(length)) == list(range(length))


def test_orders_differ_by_seed_and_epoch_and_look_random() -> None:
    first, second = ([Permutation(1000, 0, epoch)[i] for i in range(1000)] for epoch in (0, 1))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 10
    assert sum(abs(a - b) for a, b in zip(first, first[1:], strict=False)) / 999 == pytest.approx(1000 / 3, rel=0.1)
    with pytest.raises(IndexError):
        Permutation(3, 0)[3]


def test_one_data_set_gives_every_row_once_an_epoch() -> None:
    mixture = Mixture([(Rows("a", 37), 1.0)], seed=3)
    epochs = [[mixture[e * 37 + i].row for i in range(37)] for e in range(3)]
    assert all(sorted(epoch) == list(range(37)) for epoch in epochs) and epochs[0] != epochs[1]


def test_shares_hold_over_any_stretch_even_for_a_tiny_data_set() -> None:
    mixture = Mixture([(Rows("large", 100_000), 1.0), (Rows("small", 40), 1.0), (Rows("half", 50_000), 0.5)], seed=1)
    total = 64 * BLOCK
    draws = [mixture[position] for position in range(total)]
    counts = Counter(draw.source for draw in draws)
    for source, share in enumerate(mixture.shares):
        assert abs(counts[source] - share * total) <= 2
    small = [draw.row for draw in draws if draw.source == 1]
    assert len(set(small)) == len(small) < 40  # its first epoch isn't over, so no row came twice
    assert [mixture[position] for position in (5000, 17, 5000)] == [draws[5000], draws[17], draws[5000]]
    large = [draw.row for draw in draws if draw.source == 0]
    assert len(set(large)) == len(large)


def test_mistakes_are_named() -> None:
    with pytest.raises(DataError, match="mixture_empty"):
        Mixture([])
    with pytest.raises(DataError, match="dataset_empty.*a has 0 rows"):
        Mixture([(Rows("a", 0), 1.0)])
    with pytest.raises(DataError, match="mixture_weight"):
        Mixture([(Rows("a", 1), 0.0)])
    one, other = (Mixture([(Rows("a", 9), 1.0), (Rows("b", 9), w)]) for w in (1.0, 2.0))
    assert one.fingerprint != other.fingerprint
