"""The one training loop, whatever is trained.

It knows nothing of models or data: a feed gives numbered batches, an objective gives a loss. Several batches, and
several processes, make one step; each part is weighed by what its mean is over (`objective.weight`), so that the step
is the same however it's cut. Torch, numpy and Python are seeded from the batch's number, so a run that was killed goes
on as if it hadn't been. SIGTERM and SIGINT save after the step in hand and end the run in order.
"""

from __future__ import annotations

import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as computed_again

from chiasm.core.errors import CheckpointError
from chiasm.training import checkpoints
from chiasm.training.config import LoopConfig
from chiasm.training.feed import Feed
from chiasm.training.guarding import Watch
from chiasm.training.logs import Log, Report, Watcher
from chiasm.training.optimizers import Average, load_optimizer_state, make_optimizers, optimizer_state
from chiasm.training.world import ALONE, BLOCK, Step, World, like, settle, spread, unsynced


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """How a run ended: after which step, whether a signal ended it, the last loss, and how many steps were skipped."""

    step: int
    interrupted: bool
    loss: float
    skipped: int = 0


def train(
    module: nn.Module,
    objective: Callable[[Any, Any], Any],
    feed: Feed,
    config: LoopConfig,
    out: Path,
    *,
    watchers: Sequence[Watcher] = (),
    world: World = ALONE,
    tell: Callable[[str], None] = lambda line: None,
    stop: threading.Event | None = None,
) -> Finished:
    """Train a module's trainable parameters, going on from the newest checkpoint in `out` if there is one.

    Args:
        module: whose parameters with `requires_grad` learn; they and its buffers are stored in checkpoints.
        objective: (module, batch) → a mapping with ``loss``; see `core.protocols.Objective`. If it's a module, its
            parameters learn (named ``objective.…``) and its buffers are stored, too.
        feed: this process's batches by number, `accumulate` a step.
        config: how to train.
        out: folder for `log.jsonl` and `checkpoints/`.
        watchers: see the run go by, in the main process.
        world: the processes.
        tell: takes lines for people.
        stop: set from outside to end the run in order; None = SIGTERM and SIGINT set one.

    Returns:
        How the run ended; the averaged weights, where there are some, are in the module then.

    Raises:
        ConfigError: a trainable parameter matches no group, or the guard gave up.
        CheckpointError: the checkpoint in `out` belongs to another module, data set or number of threads.
    """
    return _Loop(module, objective, feed, config, out, world, tell).run(watchers, stop)


class _Loop:
    """One run at work."""

    def __init__(
        self,
        module: nn.Module,
        objective: Callable[[Any, Any], Any],
        feed: Feed,
        config: LoopConfig,
        out: Path,
        world: World,
        tell: Callable[[str], None],
    ) -> None:
        self.module, self.objective, self.feed, self.config = module, objective, feed, config
        self.folder, self.out, self.world, self.tell = out / "checkpoints", out, world, tell
        step = Step(module, objective).to(world.device)
        if config.recompute:
            _recompute(module)
        self.spread = spread(step, world, config.parallel)
        self.named = {_plain(name): p for name, p in step.named_parameters() if p.requires_grad}
        self.buffers = {_plain(name): b for name, b in step.named_buffers() if _persistent(step, name)}
        self.optimizers = make_optimizers(self.named, config.groups, config.optimizer)
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.average = Average(self.named, config.ema) if config.ema is not None else None
        self.watch = Watch(config.guard)
        self.step, self.loss = 0, math.nan

    def run(self, watchers: Sequence[Watcher], stop: threading.Event | None) -> Finished:
        """From where it stands to the end, or to the stop."""
        self.out.mkdir(parents=True, exist_ok=True)
        self._restore()
        _set_modes(self.module)
        seeing: list[Watcher] = [Log(self.out / "log.jsonl"), *watchers] if self.world.main else []
        steps, every = self.config.steps, self.config.checkpoint_every
        with _stop_signals() if stop is None else nullcontext(stop) as stopped:
            try:
                for watcher in seeing:
                    watcher.start(self.step, steps)
                stopping = self._agreed(stopped)
                while self.step < steps and not stopping:
                    report = self._one()
                    for watcher in seeing:
                        watcher.step(report)
                    if every and self.step % every == 0 and self.step < steps:
                        self._save()
                    stopping = self._agreed(stopped)
                self._save()
            finally:
                for watcher in seeing:
                    watcher.stop()
        if self.average is not None and self.step >= steps:
            self.average.place(self.named)
        skipped = self.watch.skipped
        return Finished(step=self.step, interrupted=self.step < steps, loss=self.loss, skipped=skipped)

    def _agreed(self, stopped: threading.Event) -> bool:
        return bool(self.world.sum(float(stopped.is_set()))[0])

    def _one(self) -> Report:
        """One step: its batches, their gradients, the update or the guard's veto."""
        started, share = time.perf_counter(), self.config.schedule.share(self.step, self.config.steps)
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * share
        first = self.step * self.config.accumulate
        numbers = range(first, first + self.config.accumulate)
        self.loss, scalars = self._gradients([self.feed(number) for number in numbers])
        norm = settle(self.named.values(), self.world, self.config.clip or math.inf)
        why = self.watch.trouble(self.loss, norm)
        keys = [key for number in numbers for key in self.feed.keys(number)] if why is not None else []
        if why is None:
            for optimizer in self.optimizers:
                optimizer.step()
        for parameter in self.named.values():
            parameter.grad = None
        self.step += 1
        if why is None:
            if hasattr(self.objective, "after_step"):
                self.objective.after_step(self.module, self.step)
            if self.average is not None:
                self.average.update(self.named)
        else:
            named = f" ({', '.join(keys[:4])}{' …' if len(keys) > 4 else ''})" if keys else ""
            self.tell(f"step {self.step} skipped: {why}{named}")
            self.watch.skip(self.step, why, keys)
        seconds = time.perf_counter() - started
        return Report(
            step=self.step, loss=self.loss, scalars=scalars, norm=norm, rate=share, seconds=seconds, skipped=why,
            keys=keys,
        )  # fmt: skip

    def _gradients(self, parts: Sequence[Any]) -> tuple[float, dict[str, float]]:
        """Gradients of a step's weighed mean loss; that loss and the other scalars, over all processes."""
        weigh = getattr(self.objective, "weight", lambda batch: 1.0)
        weights = [float(weigh(part)) for part in parts]
        total = self.world.sum(sum(weights))[0] or 1.0
        sums: dict[str, float] = {}
        for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
            _seed(self.config.seed, self.step * self.config.accumulate + number, self.world.rank)
            batch = part.to(self.world.device) if hasattr(part, "to") else part
            last = number == len(parts) - 1
            with unsynced(self.spread, last):
                with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.config.bf16):
                    scalars = self.spread(batch)
                # several processes' gradients are averaged, so each counts as many times as there are
                (scalars["loss"] * (weight / total * self.world.size)).backward()
            for name, value in scalars.items():
                sums[name] = sums.get(name, 0.0) + _number(value) * weight / total
        summed = dict(zip(sums, self.world.sum(*sums.values()), strict=True))
        return summed.pop("loss"), summed

    def _save(self) -> None:
        tensors: dict[str, torch.Tensor] = {f"model/{name}": p for name, p in self.named.items()}
        tensors |= {f"buffer/{name}": b for name, b in self.buffers.items()}
        tensors |= {f"optimizer/{name}": t for name, t in optimizer_state(self.named, self.optimizers).items()}
        if self.average is not None:
            tensors |= {f"ema/{name}": value for name, value in self.average.values.items()}
        tensors |= _rng_state(f"rng/{self.world.rank}")
        state = {
            "data": self.feed.fingerprint,
            "feed": self.feed.state(),
            "position": self.step * self.config.accumulate,
            "rate": self.config.schedule.share(self.step, self.config.steps),
            "threads": torch.get_num_threads(),
            "processes": self.world.size,
            "loss": self.loss.hex(),
            "guard": self.watch.state(),
        }
        checkpoints.save(self.folder, self.step, tensors, state, self.world)

    def _restore(self) -> None:
        found = checkpoints.load(self.folder, self.tell, self.world)
        if found is None:
            return
        state = checkpoints.read_state(found)
        _compare(found, "data", state["data"], self.feed.fingerprint)
        _compare(found, "threads", state["threads"], torch.get_num_threads())
        tensors = checkpoints.read_tensors(found)
        kept = {kind: _under(tensors, kind) for kind in ("model", "buffer", "optimizer", "ema")}
        for kind, own in (("model", self.named), ("buffer", self.buffers)):
            _check_names(found, kept[kind], own)
            with torch.no_grad():
                for name, tensor in own.items():
                    tensor.copy_(like(kept[kind][name], tensor))
        load_optimizer_state(self.named, self.optimizers, kept["optimizer"], like)
        if self.average is not None:
            for name, value in self.average.values.items():
                value.copy_(like(kept["ema"].get(name, kept["model"][name]), value))
        _restore_rng(tensors, f"rng/{self.world.rank}")
        self.watch.load(state["guard"])
        self.feed.restore(state["feed"])
        self.step, self.loss = int(state["step"]), float.fromhex(state["loss"])
        self.tell(f"going on after step {self.step}")


def _compare(found: Path, what: str, stored: object, now: object) -> None:
    if stored != now:
        hint = {"data": "the data set the run began with, or another --out", "threads": f"--set threads={stored}"}[what]
        raise CheckpointError(f"resume_{what}", f"{found.name} was made with {what} {stored}, now {now}", hint=hint)


def _check_names(found: Path, stored: dict[str, torch.Tensor], own: dict[str, Any]) -> None:
    for name in sorted(set(stored) ^ set(own)):
        where = "the module" if name in stored else "the checkpoint"
        raise CheckpointError("checkpoint_mismatch", f"{found}: {where} has no {name}", hint="another --out folder")
    for name, tensor in own.items():
        if stored[name].shape != tensor.shape:
            shapes = f"{tuple(stored[name].shape)}, the module's {tuple(tensor.shape)}"
            raise CheckpointError("checkpoint_mismatch", f"{found}: {name} is {shapes}", hint="another --out folder")


def _under(tensors: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{kind}/"): t for name, t in tensors.items() if name.startswith(f"{kind}/")}


def _plain(name: str) -> str:
    return name.removeprefix("module.")


def _persistent(module: nn.Module, name: str) -> bool:
    parent, _, child = name.rpartition(".")
    return child not in module.get_submodule(parent)._non_persistent_buffers_set


def _number(value: torch.Tensor | float) -> float:
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return float(value.full_tensor() if hasattr(value, "full_tensor") else value)
    return float(value)


def _set_modes(module: nn.Module) -> None:
    """Training mode; what is frozen whole stays in evaluation mode, its running statistics as they are."""
    module.train()
    for part in module.modules():
        parameters = list(part.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            part.eval()


def _recompute(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if BLOCK.search(name):
            part.forward = partial(computed_again, part.forward, use_reentrant=False)


def _seed(seed: int, number: int, rank: int) -> None:
    mixed = seed * 1_000_003 + number + (rank << 40)
    torch.manual_seed(mixed)
    np.random.seed(mixed % 2**32)
    random.seed(mixed)


def _rng_state(prefix: str) -> dict[str, torch.Tensor]:
    _, keys, place, *_ = np.random.get_state(legacy=True)
    return {
        f"{prefix}/torch": torch.get_rng_state(),
        f"{prefix}/numpy": torch.tensor([*keys.tolist(), place], dtype=torch.int64),  # type: ignore[union-attr]
        f"{prefix}/python": torch.tensor(random.getstate()[1], dtype=torch.int64),
    }


def _restore_rng(tensors: dict[str, torch.Tensor], prefix: str) -> None:
    if f"{prefix}/torch" not in tensors:
        return  # a process that the stored run didn't have
    torch.set_rng_state(tensors[f"{prefix}/torch"])
    *keys, place = tensors[f"{prefix}/numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), place, 0, 0.0))
    random.setstate((3, tuple(tensors[f"{prefix}/python"].tolist()), None))


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
