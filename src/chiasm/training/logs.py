"""What a run writes down: `log.jsonl` always, a loss log with exact numbers and TensorBoard's events when asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from chiasm.core.files import write_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One step.

    Attributes:
        step: its number, from 1.
        loss: what was minimised.
        scalars: whatever else the objective said.
        norm: of the gradient, before clipping.
        rate: the learning rate as a share of its peak.
        seconds: it took.
        skipped: why the guard skipped it; None = it didn't.
        keys: the samples of a skipped step.
    """

    step: int
    loss: float
    scalars: Mapping[str, float] = field(default_factory=dict)
    norm: float = math.nan
    rate: float = 1.0
    seconds: float = 0.0
    skipped: str | None = None
    keys: Sequence[str] = ()


class Watcher(Protocol):
    """Something that sees a run go by."""

    def start(self, step: int, steps: int) -> None:
        """The run begins, or goes on, after `step` of `steps` steps."""

    def step(self, report: Report) -> None:
        """A step is done."""

    def stop(self) -> None:
        """The loop has ended, whatever the reason."""


class Log:
    """JSON lines, one a step, flushed one by one; a run that goes on replaces the lines of steps that are done again.

    Args:
        path: the file.
        exact: only `step` and `loss_hex`, the loss as `float.hex()`.
    """

    def __init__(self, path: Path, *, exact: bool = False) -> None:
        self.path, self.exact = path, exact
        self.file: TextIO | None = None

    def start(self, step: int, steps: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut(self.path, step)
        self.file = self.path.open("a", encoding="utf-8")

    def step(self, report: Report) -> None:
        assert self.file is not None
        line: dict[str, Any] = {"step": report.step, "loss_hex": report.loss.hex()}
        if not self.exact:
            line = {"step": report.step, "loss": _finite(report.loss), "loss_hex": report.loss.hex()}
            line |= {name: _finite(value) for name, value in report.scalars.items()}
            line |= {"rate": report.rate, "norm": _finite(report.norm), "seconds": round(report.seconds, 4)}
            if report.skipped is not None:
                line |= {"skipped": report.skipped, "keys": list(report.keys)}
        self.file.write(json.dumps(line, allow_nan=False) + "\n")
        self.file.flush()

    def stop(self) -> None:
        if self.file is not None:
            self.file.close()


class TensorBoard:
    """TensorBoard's events.

    Args:
        folder: for the event files.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.make: Any = lambda step: SummaryWriter(str(folder), purge_step=step)
        self.writer: Any = None

    def start(self, step: int, steps: int) -> None:
        self.writer = self.make(step + 1)

    def step(self, report: Report) -> None:
        values = {"loss": report.loss, "rate": report.rate, "norm": report.norm, **report.scalars}
        for name, value in values.items():
            self.writer.add_scalar(name, value, report.step)

    def stop(self) -> None:
        if self.writer is not None:
            self.writer.close()


def cut(path: Path, step: int) -> None:
    """Drop the lines of later steps, and a last line that was cut short; the file is replaced at once or not at all."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_text(path, "".join(kept))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
