"""`chiasm train`: run a recipe."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from chiasm.cli.options import OUTPUT, Output
from chiasm.cli.output import DONE, FAILED, UsageError, emit, note, say

if TYPE_CHECKING:
    from chiasm.recipes.run import Run


def train(
    recipe: str | None = None,
    /,
    *,
    out: Path | None = None,
    settings: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    resume: bool = False,
    deterministic: bool = False,
    loss_log: Path | None = None,
    max_bad: str | None = None,
    device: str = "auto",
    listing: Annotated[bool, Parameter(name="--list")] = False,
    dry_run: bool = False,
    prove_resume: bool = False,
    options: Output = OUTPUT,
) -> int:
    """Train what a recipe says: chiasm train clip_pico --out runs/clip.

    Args:
        recipe: A recipe's name (chiasm train --list), or the recipe.yaml of a run.
        out: Folder of the run; the model will be in its folder model.
        settings: Change one setting, such as steps=200 or data=FOLDER; may be repeated.
        resume: Go on with the run in --out, bit for bit; the recipe may be left out.
        deterministic: Use torch's deterministic algorithms only.
        loss_log: Write the exact loss of every step to this file, as JSON lines.
        max_bad: Most rows that may be unreadable and left out, such as 1%.
        device: Where to train: auto, cpu, cuda.
        listing: List the recipes instead.
        dry_run: Count the parameters, all and trainable, and train nothing.
        prove_resume: Kill the run at a random step, resume it, and compare it with one that wasn't killed.
    """
    if listing:
        _list(options)
        return DONE
    run = _resolve(recipe, out, settings, resume, max_bad)
    if dry_run:
        _dry_run(run, options)
        return DONE
    if out is None:
        raise UsageError("--out is needed", hint=f"chiasm train {run.recipe} --out runs/{run.recipe}")
    if prove_resume:
        return _prove(run, out, options)
    from chiasm.core.devices import keep_memory
    from chiasm.recipes.running.carry import Manner, carry_out

    keep_memory()
    manner = Manner(resume=resume, deterministic=deterministic, loss_log=loss_log, device=device)
    finished = carry_out(run, out, manner, note)
    if os.environ.get("RANK", "0") != "0":
        return DONE  # the main process speaks for all
    if finished.interrupted:
        note(f"stopped after step {finished.step} and saved; go on with: chiasm train --resume --out {out}")
    if options.json:
        emit({"recipe": run.recipe, "out": str(out), **asdict(finished)})
    elif not finished.interrupted:
        say(str(out / "model"))
    return DONE


def _resolve(recipe: str | None, out: Path | None, settings: tuple[str, ...], resume: bool, max_bad: str | None) -> Run:
    for word in settings:
        if "=" not in word:
            raise UsageError(f"--set {word!r} has no equals sign", hint="--set steps=200")
    if recipe is None and resume and out is not None:
        recipe = str(out / "recipe.yaml")
    if recipe is None:
        raise UsageError("a recipe is needed", hint="chiasm train clip_pico --out runs/clip_pico")
    from chiasm.recipes.running.settings import resolve

    if max_bad is not None:
        settings = (*settings, f"max_bad={_share(max_bad)}")
    return resolve(recipe, settings)


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise UsageError(f"--max-bad {text!r} is no number", hint="--max-bad 1%") from None
    if not 0 <= value <= 1:
        raise UsageError(f"--max-bad is {value:g}, outside 0 to 1", hint="--max-bad 1%")
    return value


def _list(options: Output) -> None:
    from chiasm.recipes.run import recipes

    rows = [{"name": r.name, "family": r.family, "scale": r.scale, "data": r.needs} for r in recipes().values()]
    if options.json:
        emit(rows)
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        say(f"{row['name']:{width}}  {row['scale']:5}  needs {row['data']}")


def _dry_run(run: Run, options: Output) -> None:
    from chiasm.recipes.running.carry import counts

    parts = counts(run)
    if options.json:
        emit({"recipe": run.recipe, "trainable": parts["total"]["trainable"], "parameters": parts, "run": run})
        return
    for name, count in parts.items():
        say(f"{name:12} {count['trainable']:>16,} trainable of {count['all']:>16,} parameters")


def _prove(run: Run, out: Path, options: Output) -> int:
    from chiasm.recipes.running.proof import prove

    proof = prove(run, out, note)
    if options.json:
        emit(proof)
    else:
        say(proof.verdict)
    return DONE if proof.same else FAILED
