"""The one training loop: AdamW, warm-up and cosine, gradient clipping, accumulation, a log, checkpoints.

AdamW (Loshchilov & Hutter 2019, alg. 2); the learning rate rises linearly over `warmup` steps and falls to
`final_share` of its peak by half a cosine (Loshchilov & Hutter 2017, eq. 5). Matrices decay, vectors don't.

The loop knows nothing of models or data: it calls `loss(batch(step))`. A batch must be a function of its
number alone; the loop reseeds torch at every step, so a run that was killed goes on as if it hadn't been.
SIGTERM and SIGINT save after the step in hand and end the run in order.
"""

from __future__ import annotations

import json
import math
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chiasm.core.errors import ConfigError
from chiasm.training.checkpoints import Checkpoint, load_latest, save


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Parameters whose name matches `pattern` (a regular expression, searched) and how they learn.

    Attributes:
        pattern: the first group that matches a name takes it.
        learning_rate: peak, per step of AdamW.
        weight_decay: for matrices; vectors never decay.
    """

    pattern: str
    learning_rate: float
    weight_decay: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How to train.

    Attributes:
        steps: optimizer steps of the whole run.
        groups: how each parameter learns; every trainable one must match a group.
        warmup: steps until the peak learning rate.
        final_share: the last step's learning rate as a share of the peak.
        clip: largest norm of the gradient; None = not clipped.
        accumulate: batches whose gradients make one step.
        checkpoint_every: steps between checkpoints; 0 = only at the end.
        betas, eps: AdamW's.
        seed: torch's generator is set from it and the step's number before every batch.
    """

    steps: int
    groups: tuple[Group, ...]
    warmup: int = 0
    final_share: float = 0.0
    clip: float | None = 1.0
    accumulate: int = 1
    checkpoint_every: int = 0
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    seed: int = 0

    def rate(self, step: int) -> float:
        """The share of the peak learning rate that step `step` (from 0) uses."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * min(1.0, done))) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """How a run ended: after which step, whether a signal ended it, and the last loss."""

    step: int
    interrupted: bool
    loss: float


def train(
    module: nn.Module,
    batch: Callable[[int], Any],
    loss: Callable[[Any], torch.Tensor],
    config: LoopConfig,
    out: Path,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> Finished:
    """Train a module's trainable parameters, going on from the newest checkpoint in `out` if there is one.

    Args:
        module: whose parameters with `requires_grad` learn; they alone are stored in checkpoints.
        batch: number of a batch, from 0 → anything; asked `accumulate` times a step.
        loss: what `batch` gave → a scalar.
        config: how to train.
        out: folder for `log.jsonl` (one line a step) and `checkpoints/`.
        on_step: called after every step with the number of steps done and the step's loss.

    Returns:
        How the run ended.

    Raises:
        ConfigError: a trainable parameter matches no group, or the loss is not finite.
        CheckpointError: the checkpoint in `out` belongs to another module.
    """
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(_groups(named, config), betas=config.betas, eps=config.eps)
    peaks = [group["lr"] for group in optimizer.param_groups]
    out.mkdir(parents=True, exist_ok=True)
    step, value = load_latest(out / "checkpoints", named, optimizer), math.nan
    _cut_log(out / "log.jsonl", step)

    def checkpoint() -> None:
        save(out / "checkpoints", Checkpoint(step=step, parameters=named, optimizer=optimizer))

    with (out / "log.jsonl").open("a", encoding="utf-8") as log, _stop_signals() as stop:
        while step < config.steps and not stop.is_set():
            started = time.perf_counter()
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * config.rate(step)
            value = _accumulate(batch, loss, config, step)
            norm = nn.utils.clip_grad_norm_(named.values(), config.clip or math.inf)
            if not math.isfinite(value) or not torch.isfinite(norm):
                raise ConfigError(
                    "loss_not_finite",
                    f"step {step}: loss {value}, gradient norm {float(norm)}",
                    hint="a lower learning rate",
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            line = {"step": step, "loss": round(value, 6), "loss_hex": value.hex(), "rate": config.rate(step - 1)}
            log.write(
                json.dumps({**line, "norm": round(float(norm), 4), "seconds": round(time.perf_counter() - started, 4)})
                + "\n"
            )
            log.flush()
            if config.checkpoint_every and step % config.checkpoint_every == 0 and step < config.steps:
                checkpoint()
            if on_step is not None:
                on_step(step, value)
        checkpoint()
        return Finished(step=step, interrupted=step < config.steps, loss=value)


def _accumulate(
    batch: Callable[[int], Any], loss: Callable[[Any], torch.Tensor], config: LoopConfig, step: int
) -> float:
    total = 0.0
    for part in range(config.accumulate):
        number = step * config.accumulate + part
        torch.manual_seed(config.seed * 1_000_003 + number)
        piece = loss(batch(number)) / config.accumulate
        piece.backward()
        total += piece.item()
    return total


def _groups(named: Mapping[str, nn.Parameter], config: LoopConfig) -> list[dict[str, Any]]:
    """AdamW's parameter groups: one for the matrices and one for the vectors of every `Group`."""
    members: dict[tuple[Group, bool], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        group = next((group for group in config.groups if re.search(group.pattern, name)), None)
        if group is None:
            patterns = ", ".join(repr(group.pattern) for group in config.groups)
            raise ConfigError("parameter_ungrouped", f"parameter {name} matches none of {patterns}")
        members.setdefault((group, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "lr": group.learning_rate, "weight_decay": group.weight_decay if decays else 0.0}
        for (group, decays), parameters in members.items()
    ]


def _cut_log(path: Path, step: int) -> None:
    """Drop the lines of steps that the checkpoint doesn't hold, so that every step is logged once."""
    if path.exists():
        lines = [
            line
            for line in path.read_text("utf-8").splitlines()
            if line.endswith("}") and json.loads(line)["step"] <= step
        ]
        path.write_text("".join(line + "\n" for line in lines), "utf-8")


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; the former handlers come back at the end."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield stop
        return
    former = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
