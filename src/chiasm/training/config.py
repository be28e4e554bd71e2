"""What a training run is told, as plain values: optimizers, schedules, groups of parameters, the guard.

Nothing here imports torch until `build()`, so that recipes can be listed at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Parameters whose name matches `pattern` (a regular expression, searched) and how they learn.

    Attributes:
        pattern: the first group that matches a name takes it.
        learning_rate: peak, per optimizer step.
        weight_decay: for matrices; vectors never decay.
    """

    pattern: str = ""
    learning_rate: float
    weight_decay: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """What every optimizer has: a maker."""

    def build(self, groups: Sequence[dict[str, Any]]) -> list[torch.optim.Optimizer]:
        """The optimizers of parameter groups as torch takes them (`params`, `lr`, `weight_decay`)."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamW(OptimizerConfig):
    """AdamW (Loshchilov & Hutter 2019, alg. 2)."""

    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8

    def build(self, groups: Sequence[dict[str, Any]]) -> list[torch.optim.Optimizer]:
        import torch

        return [torch.optim.AdamW(list(groups), betas=self.betas, eps=self.eps, fused=True)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Adafactor(OptimizerConfig):
    """Adafactor (Shazeer & Stern 2018, alg. 4): second moments of a matrix as a row and a column."""

    beta2_decay: float = -0.8
    clip: float = 1.0

    def build(self, groups: Sequence[dict[str, Any]]) -> list[torch.optim.Optimizer]:
        import torch

        return [torch.optim.Adafactor(list(groups), beta2_decay=self.beta2_decay, d=self.clip)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Muon(OptimizerConfig):
    """Muon (Jordan et al. 2024) for matrices inside the network, AdamW for vectors and embeddings.

    Attributes:
        momentum: of Muon.
        betas, eps: of AdamW.
        match_adamw: scale updates to AdamW's size, so that learning rates carry over (Liu et al. 2025, §2.2).
    """

    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    match_adamw: bool = True

    def build(self, groups: Sequence[dict[str, Any]]) -> list[torch.optim.Optimizer]:
        import torch

        from chiasm.training import muon

        inner: list[dict[str, Any]] = []
        outer: list[dict[str, Any]] = []
        for group in groups:
            matrices = group.get("matrices", True)
            (inner if matrices else outer).append(group)
        made: list[torch.optim.Optimizer] = []
        if inner:
            adjust = "match_rms_adamw" if self.match_adamw else "original"
            made.append(muon.Muon(inner, momentum=self.momentum, adjust_lr_fn=adjust))
        if outer:
            made.append(torch.optim.AdamW(outer, betas=self.betas, eps=self.eps, fused=True))
        return made


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The learning rate as a share of its peak: constant, after a linear rise.

    Attributes:
        warmup: steps until the peak; below 1, a share of all steps.
    """

    warmup: float = 0

    def share(self, step: int, steps: int) -> float:
        """The share that step `step` (from 0) of `steps` uses."""
        warmup = self.warmup_steps(steps)
        return (step + 1) / warmup if step < warmup else self.after(step - warmup, max(1, steps - warmup))

    def warmup_steps(self, steps: int) -> int:
        """Steps of the rise."""
        return math.ceil(self.warmup * steps) if 0 < self.warmup < 1 else int(self.warmup)

    def after(self, step: int, steps: int) -> float:
        """The share `step` steps after the rise, of `steps` that remain."""
        return 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant(Schedule):
    """The peak, after the rise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosine(Schedule):
    """Half a cosine down to `final_share` (Loshchilov & Hutter 2017, eq. 5)."""

    final_share: float = 0.0

    def after(self, step: int, steps: int) -> float:
        return self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * min(1.0, step / steps))) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear(Schedule):
    """A straight line down to `final_share`."""

    final_share: float = 0.0

    def after(self, step: int, steps: int) -> float:
        return 1 - (1 - self.final_share) * min(1.0, step / steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmupStableDecay(Schedule):
    """The peak, then over the last `decay` steps (below 1, a share of all) a straight line down to `final_share`."""

    decay: float = 0.1
    final_share: float = 0.0

    def share(self, step: int, steps: int) -> float:
        warmup = self.warmup_steps(steps)
        if step < warmup:
            return (step + 1) / warmup
        decay = max(1, math.ceil(self.decay * steps) if self.decay < 1 else int(self.decay))
        done = min(1.0, max(0, step - (steps - decay)) / decay)
        return 1 - (1 - self.final_share) * done


@dataclass(frozen=True, kw_only=True, slots=True)
class StepDecay(Schedule):
    """The rate is multiplied by `factor` every `every` steps."""

    every: int
    factor: float

    def after(self, step: int, steps: int) -> float:
        return float(self.factor ** (step // self.every))


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """What happens to a step whose loss or gradient isn't finite, or whose loss jumps: it's skipped, counted, named.

    Attributes:
        most_skipped: the run stops when more steps than this were skipped.
        spike: a loss is a jump when it lies more than so many deviations above the mean of the last `window`; None =
            only what isn't finite is skipped.
        window: steps looked back on.
    """

    most_skipped: int = 10
    spike: float | None = None
    window: int = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How to train.

    Attributes:
        steps: optimizer steps of the whole run.
        groups: how each parameter learns; every trainable one must match a group.
        optimizer, schedule, guard: see their classes.
        clip: largest norm of the gradient; None = not clipped.
        accumulate: batches whose gradients make one step.
        checkpoint_every: steps between checkpoints; 0 = only at the end.
        seed: torch's, numpy's and Python's generators are set from it and the batch's number before every batch.
        ema: decay of the moving average of the weights; None = none is kept.
        bf16: autocast to bfloat16.
        recompute: activation checkpointing of every module called ``blocks.<number>``.
        parallel: ``ddp`` or ``fsdp``, where there are several processes.
    """

    steps: int
    groups: tuple[Group, ...]
    optimizer: OptimizerConfig = AdamW()
    schedule: Schedule = Cosine()
    guard: Guard = Guard()
    clip: float | None = 1.0
    accumulate: int = 1
    checkpoint_every: int = 0
    seed: int = 0
    ema: float | None = None
    bf16: bool = False
    recompute: bool = False
    parallel: str = "ddp"
