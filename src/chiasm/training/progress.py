"""What people see while a run goes by: a bar with throughput and time left on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from chiasm.training.logs import Report

EVERY = 10.0  # seconds between two lines where there is no terminal


class Progress:
    """A bar or lines on standard error.

    Args:
        samples: of one step, for the throughput.
        name: of the run.
        stream: where to; None = standard error.
    """

    def __init__(self, samples: int, name: str = "", stream: TextIO | None = None) -> None:
        self.samples, self.name, self.stream = samples, name, stream or sys.stderr
        self.bar: Any = None

    def start(self, step: int, steps: int) -> None:
        self.first, self.steps = step, steps
        self.began = self.told = time.monotonic()
        if self.stream.isatty():
            self.bar = _bar(self.stream)
            self.task = self.bar.add_task(self.name, total=steps, completed=step, loss="", speed="")
            self.bar.start()

    def step(self, report: Report) -> None:
        now = time.monotonic()
        done = report.step - self.first
        speed = done * self.samples / max(now - self.began, 1e-9)
        if self.bar is not None:
            self.bar.update(self.task, completed=report.step, loss=f"{report.loss:.4f}", speed=f"{speed:.1f} samples/s")
            return
        if now - self.told < EVERY and report.step not in (self.first + 1, self.steps):
            return
        self.told = now
        left = (self.steps - report.step) * (now - self.began) / done
        line = f"step {report.step}/{self.steps}  loss {report.loss:.4f}  {speed:.1f} samples/s  {_clock(left)} left"
        print(line, file=self.stream, flush=True)

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()


def _bar(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = ("loss {task.fields[loss]}", "{task.fields[speed]}")
    return Bar(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *map(TextColumn, columns),
        TimeRemainingColumn(), console=Console(file=stream), transient=False,
    )  # fmt: skip


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
