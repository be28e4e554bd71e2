"""TensorBoard's events: the numbers of the log, and what a stop leaves twice is shown once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from chiasm.training.logs import Report, TensorBoard


def shown(folder: Path, name: str) -> dict[int, float]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def test_a_run_that_goes_on_replaces_the_steps_after_its_checkpoint(tmp_path: Path) -> None:
    for start, losses in ((0, (5.0, 4.0, 3.0)), (2, (2.5, 2.0))):
        board = TensorBoard(tmp_path)
        board.start(start, 4)
        for step, loss in enumerate(losses, start + 1):
            board.step(Report(step=step, loss=loss, scalars={"accuracy": loss / 10}, norm=1.0, rate=0.5))
        board.stop()
    assert shown(tmp_path, "loss") == {1: 5.0, 2: 4.0, 3: 2.5, 4: 2.0}
    assert shown(tmp_path, "accuracy")[4] == pytest.approx(0.2)
    assert set(shown(tmp_path, "rate").values()) == {0.5} and set(shown(tmp_path, "norm").values()) == {1.0}
