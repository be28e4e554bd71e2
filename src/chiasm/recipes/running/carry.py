"""Carrying a run out: its folder, the stages before it, the loop, what is left at the end.

A run's folder holds `recipe.yaml` (what was run), `log.jsonl`, `checkpoints/`, and at the end `model/` (what
`chiasm.load` takes), `loss.png` and `result.json`. Stages that come first have folders of the same kind inside it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.core.files import holds_nothing, write_text
from chiasm.nn.storage import narrow_type
from chiasm.recipes.run import Run, find_recipe
from chiasm.recipes.running.settings import CHANGEABLE, FILE, differences, read_run, write_run
from chiasm.recipes.running.standard import standard_task
from chiasm.recipes.running.task import Task, Tell
from chiasm.training.config import LoopConfig
from chiasm.training.logs import Log, TensorBoard, Watcher, read_log
from chiasm.training.loop import Finished, train
from chiasm.training.plot import plot_loss
from chiasm.training.progress import Progress
from chiasm.training.world import World, joined, whole

PATIENCE = 60.0  # seconds for another process to save and leave


@dataclass(frozen=True, kw_only=True, slots=True)
class Manner:
    """How a run is carried out; nothing here changes what it computes, but `deterministic` makes it repeatable.

    Attributes:
        resume: go on in a folder that holds this run.
        deterministic: only deterministic algorithms of torch, or an error.
        loss_log: file for the loss of every step as `float.hex()`.
        show: print sample 0 and the progress.
        device: ``auto`` or a torch device.
    """

    resume: bool = False
    deterministic: bool = False
    loss_log: Path | None = None
    show: bool = True
    device: str = "auto"


def carry_out(run: Run, out: Path, manner: Manner, tell: Tell) -> Finished:
    """Train what a run says into a folder.

    Args:
        run: resolved.
        out: the run's folder.
        manner: how.
        tell: takes lines for people; only the main process speaks.

    Returns:
        How the run, or the stage that a signal ended, ended.

    Raises:
        ConfigError, CheckpointError, DataError: whatever is wrong with settings, folder or data, told before training.
    """
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    if manner.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    with joined(manner.device) as world:
        quiet: Tell = tell if world.main else lambda line: None
        with ExitStack() as held:
            if world.main:
                _claim(run, out, manner.resume)
                held.enter_context(_alone(out))
            world.barrier()
            return _stages(run, out, manner, world, quiet)


def _stages(run: Run, out: Path, manner: Manner, world: World, tell: Tell) -> Finished:
    """The run, after the recipe that comes first."""
    if run.after is not None and run.init_from is None:
        first = find_recipe(run.after).run()
        first = replace(first, seed=run.seed, threads=run.threads, parallel=run.parallel)
        folder = out / first.recipe
        if not _is_finished(folder, first):
            tell(f"first {first.recipe}, {first.steps} steps")
            if world.main:
                folder.mkdir(parents=True, exist_ok=True)
                write_run(first, folder / FILE)
            world.barrier()
            finished = _stages(first, folder, replace(manner, loss_log=None), world, tell)
            if finished.interrupted:
                return finished
            tell(f"then {run.recipe or 'the run'}, {run.steps} steps")
        run = replace(run, init_from=str(folder))
    return _one(run, out, manner, world, tell)


def _one(run: Run, out: Path, manner: Manner, world: World, tell: Tell) -> Finished:
    task = run.task.build(run, out) if run.task is not None else standard_task(run, out, world, tell)
    watchers: list[Watcher] = []
    if world.main:
        if manner.loss_log is not None:
            watchers.append(Log(manner.loss_log, exact=True))
        if run.tensorboard:
            watchers.append(TensorBoard(out / "tensorboard"))
        if manner.show:
            _show(task)
            watchers.append(Progress(run.batch_size, run.recipe))
    config = loop_config(run)
    if config.bf16 and world.device.type == "cpu" and narrow_type() is torch.float32:
        tell("float32 instead of bfloat16, which this processor has no instructions for: emulated, it takes far longer")
        config = replace(config, bf16=False)
    finished = train(task.module, task.objective, task.feed, config, out, watchers=watchers, world=world, tell=tell)
    if not finished.interrupted:
        _end(run, task, out, finished, world, tell)
    return finished


def loop_config(run: Run) -> LoopConfig:
    """What the loop needs of a run."""
    return LoopConfig(
        steps=run.steps,
        groups=run.groups,
        optimizer=run.optimizer,
        schedule=run.schedule,
        guard=run.guard,
        clip=run.clip,
        accumulate=run.accumulate,
        checkpoint_every=run.checkpoint_every,
        seed=run.seed,
        ema=run.ema,
        bf16=run.bf16,
        recompute=run.recompute,
        parallel=run.parallel,
    )


def _claim(run: Run, out: Path, resume: bool) -> None:
    """Make the folder this run's, or see that it is.

    Raises:
        ConfigError: another run is there, or something that is no run, or this run and nobody said `--resume`.
    """
    stored = out / FILE
    if stored.is_file() and _begun(out):
        if not resume:
            raise ConfigError("run_exists", f"{out} holds a run already", hint="the same command with --resume")
        differing = differences(read_run(stored), run)
        if differing:
            name, then, now = differing[0]
            what = f"{stored} says {name} {then!r}, now it is {now!r}; {len(differing)} settings differ"
            raise CheckpointError(
                "resume_settings", what, hint=f"another --out, or change only {', '.join(CHANGEABLE[:3])}"
            )
    elif not stored.is_file() and out.exists() and (not out.is_dir() or not holds_nothing(out)):
        what = f"{out} is there already and holds no run"
        raise ConfigError("folder_not_empty", what, hint="another --out folder")
    out.mkdir(parents=True, exist_ok=True)
    write_run(run, stored)


def _begun(out: Path) -> bool:
    """Whether a run's folder holds more than its settings: a run that failed before its first step may be corrected."""
    return any((out / name).exists() for name in ("log.jsonl", "checkpoints")) or any(out.glob(f"*/{FILE}"))


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold a run's folder; one that another process is leaving (it was told to stop, and saves) is waited for.

    Raises:
        ConfigError: another process is still at work there.
    """
    with (out / ".lock").open("w") as handle:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    break  # a file system without locks holds nobody
                if time.monotonic() > deadline:
                    what = f"another process trains in {out}, for more than {PATIENCE:g} s by now"
                    raise ConfigError("run_busy", what, hint="wait for it, end it, or another --out") from None
                time.sleep(0.2)
        yield


def _is_finished(folder: Path, run: Run) -> bool:
    path = folder / "result.json"
    return path.is_file() and json.loads(path.read_text("utf-8"))["step"] >= run.steps


def _show(task: Task) -> None:
    from rich.console import Console

    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    for line in task.show():
        console.print(line)


def _end(run: Run, task: Task, out: Path, finished: Finished, world: World, tell: Tell) -> None:
    gathered(task)
    if world.main:
        task.finish(out)
        points = [(line["step"], float.fromhex(line["loss_hex"])) for line in read_log(out / "log.jsonl")]
        plot_loss(points, out / "loss.png", f"{run.recipe}: loss of {len(points)} steps")
        write_text(out / "result.json", json.dumps({"recipe": run.recipe, **asdict(finished)}) + "\n")
        tell(f"{out / 'model'}: trained, {finished.step} steps, {finished.skipped} skipped")
    world.barrier()


def gathered(task: Task) -> None:
    """Put sharded parameters together, in place, so that the model can be written; every process must call."""
    for module in task.module.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            full = whole(parameter.detach())
            if full is not parameter and hasattr(parameter, "device_mesh"):
                setattr(module, name, torch.nn.Parameter(full, requires_grad=parameter.requires_grad))


def counts(run: Run) -> dict[str, dict[str, int]]:
    """Numbers of parameters, all and trainable, of the whole model and its parts; no weight is made.

    Raises:
        ConfigError: the run's training has no model that can be counted so.
    """
    from chiasm.recipes.running.building import count_parameters
    from chiasm.recipes.running.standard import choose_trainable
    from chiasm.weights.meta import build_on_meta

    if run.model is None:
        raise ConfigError("setting_missing", "the run names no model to count", hint="--set model=Tiny")
    module = build_on_meta(run.model.skeleton(run.family))
    with torch.device("meta"):
        choose_trainable(module, run)
    return count_parameters(module)
