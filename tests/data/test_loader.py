"""Batches by number: the same with any number of workers and from any start, bad rows replaced and counted."""

import os
import signal
import time

import pytest
import torch

from chiasm.core.errors import ChiasmError, DataError, PromptError
from chiasm.core.messages import Conversation, Message, TextPart
from chiasm.core.samples import Place, Sample
from chiasm.data.loader import WINDOW, Loader, text_lengths
from chiasm.data.mixtures import Mixture


class Numbers:
    """Rows that hold their number; some can't be read, some are refused by `collate`."""

    def __init__(self, count: int = 50, unread: tuple[int, ...] = (), name: str = "numbers") -> None:
        self.name, self.fingerprint, self.count, self.unread = name, f"{name}{count}", count, unread

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index in self.unread:
            raise DataError("row_broken", f"{self.name}.jsonl, row {index}: no JSON")
        turns = (Message("assistant", (TextPart("x" * (1 + index % 13)),)),)
        return Sample(key=str(index), conversation=Conversation(turns), place=Place(f"{self.name}.jsonl", index))

    def __iter__(self):
        return (self[index] for index in range(self.count))


def collate(samples):
    """Row numbers, and noise that augmentation would draw."""
    return [int(sample.key) for sample in samples], torch.rand(()).item()


def refusing(*rows):
    def refuse(samples):
        for sample in samples:
            if int(sample.key) in rows:
                raise PromptError("labels_empty", "0 supervised tokens")
        return collate(samples)

    return refuse


def batches(numbers, **settings):
    with Loader(**{"source": Numbers(), "collate": collate, "batch_size": 4, "seed": 5, **settings}) as loader:
        return [loader(number) for number in numbers]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_change_nothing(workers):
    before = torch.get_rng_state()
    expected = batches(range(30))
    assert torch.equal(before, torch.get_rng_state())  # what collation draws, the training doesn't feel
    assert batches(range(30), workers=workers) == expected
    assert batches([12, 13, 3, 4, 29], workers=workers) == [expected[i] for i in (12, 13, 3, 4, 29)]


def test_every_row_comes_once_an_epoch_and_seeds_differ():
    rows = [row for numbers, _ in batches(range(25)) for row in numbers]
    assert sorted(rows[:50]) == sorted(rows[50:]) == list(range(50)) and rows[:50] != rows[50:]
    assert batches([0]) != batches([0], seed=6)


def test_ranks_share_a_batch_in_order():
    whole = [numbers for numbers, _ in batches(range(3))]
    parts = [[numbers for numbers, _ in batches(range(3), rank=rank, world=2)] for rank in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole
    with pytest.raises(DataError, match="batch_ragged.*4 rows can't be cut into 3"):
        batches([0], world=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_rows_are_replaced_counted_and_told(workers):
    told = []
    settings = {"source": Numbers(50, unread=(3, 30)), "collate": refusing(7), "max_bad": 0.06, "report": told.append}
    with Loader(batch_size=4, seed=5, workers=workers, **settings) as loader:
        rows = [loader(number)[0] for number in range(25)]
        state = loader.state()
    assert all(len(numbers) == 4 and not {3, 7, 30} & set(numbers) for numbers in rows)
    assert sorted((bad.row, bad.code) for bad in told) == [(3, "row_broken"), (7, "labels_empty"), (30, "row_broken")]
    assert str(next(bad.place for bad in told if bad.row == 7)) == "numbers.jsonl, row 7"
    clean = [numbers for numbers, _ in batches(range(25))]
    assert [numbers for numbers, old in zip(rows, clean, strict=True) if not {3, 7, 30} & set(old)] == [
        old for old in clean if not {3, 7, 30} & set(old)
    ]
    again = Loader(batch_size=4, seed=5, **settings)
    again.restore(state)
    assert again.bad == loader.bad and again(12)[0] == rows[12]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_rows_stop_the_run(workers):
    with pytest.raises(DataError, match=r"too_many_bad_rows\]: 1 of 50 rows are bad, at most 1.00%") as caught:
        batches(range(25), source=Numbers(50, unread=(3, 30)), workers=workers)
    assert "no JSON" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unforeseen_failure_is_one_line_with_the_batch(workers):
    def fails(samples):
        raise KeyError("colour")

    with pytest.raises(DataError, match=r"batch_failed\]: batch 2: KeyError: 'colour' \(test_loader.py:\d+\)"):
        batches([2], collate=fails, workers=workers)


def test_a_dead_worker_is_an_error_and_no_hang():
    with Loader(Numbers(), collate, batch_size=4, workers=2) as loader:
        loader(0)
        os.kill(loader._workers._processes[1].pid, signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(DataError, match=r"worker_died\]: data worker 1 of 2 .* SIGKILL"):
            for number in range(1, 9):
                loader(number)
        assert time.monotonic() - start < 10


def test_a_skip_list_is_left_out_uncounted():
    rows = batches(range(25), skip={("numbers.jsonl", "7"), ("numbers.jsonl", "8")}, max_bad=0.0)
    assert not {7, 8} & {row for numbers, _ in rows for row in numbers}


def test_bucketing_puts_like_lengths_together_and_keeps_every_row():
    dataset = Numbers(4 * WINDOW)
    lengths = [text_lengths(dataset, per_picture=9)]
    assert lengths[0][:5] == [0, 0, 0, 1, 1]
    lengths = [[len(sample.conversation.messages[0].text) for sample in dataset]]
    loaded = batches(range(WINDOW), source=dataset, lengths=lengths)
    rows = [numbers for numbers, _ in loaded]
    assert sorted(row for numbers in rows for row in numbers) == list(range(4 * WINDOW))
    spread = [max(n % 13 for n in numbers) - min(n % 13 for n in numbers) for numbers in rows]
    assert sum(spread) / len(spread) < 1 and [rows[0][0] % 13, rows[1][0] % 13] != [0, 0]
    assert batches([40, 3], source=dataset, lengths=lengths, workers=2) == [loaded[40], loaded[3]]
    with pytest.raises(DataError, match="lengths_count"):
        batches([0], lengths=[[1, 2]])


def test_another_data_set_or_order_is_refused_on_resume():
    state = Loader(Numbers(), collate, batch_size=4).state()
    Loader(Numbers(), collate, batch_size=4).restore(state)
    for source, size in ((Numbers(51), 4), (Numbers(), 5), (Mixture([(Numbers(), 1.0)], seed=1), 4)):
        with pytest.raises(ChiasmError, match="data_changed"):
            Loader(source, collate, batch_size=size).restore(state)
