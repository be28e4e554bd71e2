"""Comparisons: several recipes on the same data under the same budget, several seeds each, measured on the same items.

A comparison's folder holds `comparison.json` (what was asked, and the steps that the budget comes to),
`runs/RECIPE/SEED` (a training run each), `eval/RECIPE/SEED` (an evaluation each), `table.json` and `report.html`.
A recipe may carry settings of its own: `palme_pico?model.connector=mlp&lora=null`. What comes before recipes (`after`)
is trained once a seed, in `stages/`, and shared, and so are the features of frozen towers, in `features/`: neither is
part of the budget. Whatever is finished is not done again, so the same command goes on after a stop, also after a
SIGKILL. Each training is a process of its own: its memory is its own, and what one leaves behind can't help another.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.recipes.comparing import collect, plain_name, write_report
from chiasm.recipes.run import Run, find_recipe
from chiasm.recipes.running.settings import FILE, resolve, write_run

Tell = Callable[[str], None]
_BUDGET = re.compile(r"([\d.]+(?:e\d+)?)\s*(steps|s|m|h|flops)")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
GROWING = ("recipes", "seeds")  # what may differ where a comparison is gone on with: no run depends on them
TIMED = 4  # steps of the trial that a budget in minutes is turned into steps by


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What is compared.

    Attributes:
        recipes: names, each with settings of its own after a question mark, joined by ``&``.
        data: what all train on, as for training; None = each recipe's own.
        held_out: what all are measured on.
        tasks: names of tasks that read `held_out`, or that need no data.
        budget: of each run: ``2000steps``, ``10m`` (or s, h) of training, ``1e15flops``.
        seeds: runs of each recipe.
        settings: changes to every recipe, ``a.b=c``.
        limit: items a task.
    """

    recipes: tuple[str, ...]
    data: str | None
    held_out: str | None
    tasks: tuple[str, ...]
    budget: str
    seeds: int = 3
    settings: tuple[str, ...] = ()
    limit: int | None = 200


def parse_budget(text: str) -> tuple[float, str]:
    """An amount and its unit, one of ``steps``, ``seconds``, ``flops``.

    Raises:
        ConfigError: it isn't an amount of one of them.
    """
    match = _BUDGET.fullmatch(text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise ConfigError(
            "budget_unknown", f"budget {text!r} is no amount of steps, time or flops", hint="--budget 2000steps"
        )
    amount, unit = float(match[1]), match[2]
    return (amount * _UNITS[unit], "seconds") if unit in _UNITS else (amount, unit)


def compare(asked: Comparison, out: Path, batch_size: int, tell: Tell) -> dict[str, Any]:
    """Train, measure, and put everything into one table.

    Args:
        asked: what.
        out: the comparison's folder; one that holds the same comparison, or one of other recipes or more or fewer seeds
            with all else the same, is gone on with.
        batch_size: of the evaluations; no figure depends on it.
        tell: takes lines for people.

    Returns:
        The table: ``rows`` and what was ``asked``.

    Raises:
        ConfigError: another comparison is there; no recipe, task or budget of that name; a training failed.
    """
    plan = _claim(asked, out, tell)
    for seed in range(asked.seeds):
        for name in asked.recipes:
            run, folder = _run_of(asked, name, seed), out / "runs" / plain_name(name) / str(seed)
            if not (folder / "result.json").is_file():
                _train(_ready(replace(run, steps=plan[name]["steps"]), out, tell), name, folder, tell)
            _measure(asked, folder / "model", out / "eval" / plain_name(name) / str(seed), batch_size, tell)
    table = {"asked": asdict(asked), "rows": collect(asked, plan, out)}
    (out / "table.json").write_text(json.dumps(table, indent=1) + "\n", "utf-8")
    write_report(table, asked, out)
    return table


def _run_of(asked: Comparison, text: str, seed: int) -> Run:
    name, _, own = text.partition("?")
    changes = asked.settings
    if asked.data is not None:  # parts of a mixture are drawn alike, however long they are
        parts = asked.data.split(" + ")
        changes = (*changes, f"data={asked.data if len(parts) == 1 else json.dumps(parts)}")
    return replace(resolve(name, (*changes, *filter(None, own.split("&")))), seed=seed)


def _ready(run: Run, out: Path, tell: Tell) -> Run:
    """The run with what comes before it trained, and with a store that all runs share."""
    if run.store is not None and run.store.folder is None:
        run = replace(run, store=replace(run.store, folder=str((out / "features").resolve())))
    if run.after is None or run.init_from is not None:
        return run
    first = replace(find_recipe(run.after).run(), seed=run.seed, threads=run.threads, parallel=run.parallel)
    folder = out / "stages" / first.recipe / str(run.seed)
    if not (folder / "result.json").is_file():
        _train(_ready(first, out, tell), first.recipe, folder, tell)
    return replace(run, init_from=str(folder.resolve()))


def _claim(asked: Comparison, out: Path, tell: Tell) -> dict[str, Any]:
    """The plan: for each recipe its steps, parameters and cost of a step; decided once and kept."""
    from chiasm.evaluation.tasks import chosen

    chosen(asked.tasks)
    amount, unit = parse_budget(asked.budget)
    if asked.seeds < 1:
        raise ConfigError("budget_unknown", f"{asked.seeds} seeds, at least 1 is needed", hint="--seeds 3")
    path, plain = out / "comparison.json", json.loads(json.dumps(asdict(asked)))
    kept: dict[str, Any] = {"asked": plain, "plan": {}}
    if path.is_file():
        kept = json.loads(path.read_text("utf-8"))
        differing = [key for key in plain if key not in GROWING and kept["asked"].get(key) != plain[key]]
        if differing:
            raise ConfigError(
                "comparison_exists", f"{out} holds another comparison; it differs in {', '.join(differing)}"
            )
    out.mkdir(parents=True, exist_ok=True)
    kept["asked"] = plain
    for name in asked.recipes:
        if name not in kept["plan"]:
            tell(f"{name}: counting a step")
            told = _step(_run_of(asked, name, 0), timed=unit == "seconds")
            price = {"steps": 1.0, "seconds": told["seconds"], "flops": told["flops"]}[unit]
            kept["plan"][name] = {**told, "steps": max(1, int(amount / price))}
            path.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    return kept["plan"]


def _step(run: Run, *, timed: bool) -> dict[str, Any]:
    """What an optimizer step costs on the first batches of the data: operations, and seconds where they're wanted."""
    import torch

    from chiasm.evaluation.flops import FlopCounter
    from chiasm.recipes.running.standard import standard_task
    from chiasm.training.world import World

    with tempfile.TemporaryDirectory() as scratch:
        task = standard_task(replace(run, workers=0, store=None, after=None), Path(scratch), World(), lambda line: None)
        learned = {id(p): p.numel() for p in task.module.parameters() if p.requires_grad}
        counter = FlopCounter()
        with counter:
            task.objective(task.module, task.feed(0))
        taken = []
        for number in range(TIMED if timed else 0):
            begun = time.perf_counter()
            task.objective(task.module, task.feed(number))["loss"].backward()
            taken.append(time.perf_counter() - begun)
        seconds = statistics.median(taken[1:]) if timed else 0.0  # the first one warms up
        for parameter in task.module.parameters():
            parameter.grad = None
        total = sum(p.numel() for p in task.module.parameters())
        del task
    torch.manual_seed(0)
    return {
        "flops": counter.total * run.accumulate,
        "seconds": seconds * run.accumulate,
        "parameters": total,
        "trained": sum(learned.values()),
    }


def _train(run: Run, name: str, folder: Path, tell: Tell) -> None:
    """One training as a process of its own, gone on with where it was stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / FILE).is_file():
        write_run(replace(run, checkpoint_every=run.checkpoint_every or max(1, run.steps // 10)), folder / FILE)
    tell(f"{name}, seed {run.seed}: training {run.steps} steps")
    command = [sys.executable, "-m", "chiasm", "train", "--resume", "--out", str(folder)]
    with (folder / "train.log").open("ab") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=_end_with_parent)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except KeyboardInterrupt:
            child.terminate()  # it saves and ends
            child.wait()
            raise
    before = _json(folder / "usage.json") or {"peak_bytes": 0}
    peak = max(before["peak_bytes"], usage.ru_maxrss * 1024)
    (folder / "usage.json").write_text(json.dumps({"peak_bytes": peak}) + "\n", "utf-8")
    if os.waitstatus_to_exitcode(status) or not (folder / "result.json").is_file():
        last = (folder / "train.log").read_text("utf-8", "replace").strip().splitlines()[-1:]
        raise ConfigError("run_failed", f"{name}, seed {run.seed}, ended before its end: {' '.join(last)[:300]}",
                          hint=f"see {folder / 'train.log'}")  # fmt: skip


def _end_with_parent() -> None:
    """In a child: be told to save and end when the parent is gone, however it went (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _measure(asked: Comparison, model: Path, out: Path, batch_size: int, tell: Tell) -> None:
    """The held-out tasks, all that the model is able to do."""
    if (out / "results.json").is_file():
        return
    from chiasm.evaluation.evaluate import Plan, evaluate
    from chiasm.evaluation.predictor import ModelPredictor
    from chiasm.evaluation.tasks import chosen
    from chiasm.weights.load import load

    tell(f"{out.parent.name}, seed {out.name}: measuring")
    loaded = load(str(model))
    loaded.remember_pictures()
    loaded.name = f"{out.parent.name}, seed {out.name}"
    settings = Plan(
        tasks=chosen(asked.tasks),
        out=out,
        folders={} if asked.held_out is None else {"": asked.held_out},
        limit=asked.limit,
        batch_size=batch_size,
        resume=True,
    )
    evaluate(ModelPredictor(loaded, batch_size), settings)


def _json(path: Path) -> Mapping[str, Any] | None:
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def held_out_of(data: str | None) -> str | None:
    """The held-out part of a named data set: `scenes:train:captions` → `scenes:test:captions`; None for other data."""
    from chiasm.data.named import is_named

    if data is None or not is_named(data):
        return None
    if " + " in data:
        parts = [held_out_of(part) for part in data.split(" + ")]
        return None if None in parts else " + ".join(part for part in parts if part is not None)
    named = re.sub(r"\b(train)\b", "test", data, count=1)
    if named != data:
        return named
    head, mark, rest = data.partition("?")
    first, colon, words = head.partition(":")
    return f"{first}:test{colon}{words}{mark}{rest}"
