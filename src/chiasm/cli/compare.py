"""`chiasm compare`: recipes head to head, same data, same budget, error bars and a blind control."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from chiasm.cli.options import OUTPUT, Output
from chiasm.cli.output import UsageError, emit, note, say


def compare(
    *recipes: str,
    budget: str = "",
    out: Path | None = None,
    data: str | None = None,
    held_out: str | None = None,
    tasks: str = "answers,captions,retrieval",
    seeds: int = 3,
    limit: int | None = 200,
    batch_size: int = 16,
    settings: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    options: Output = OUTPUT,
) -> None:
    """Compare recipes: chiasm compare clip_pico siglip_pico --data scenes:train:captions --budget 9m --out runs/c.

    Args:
        recipes: Names of recipes; see chiasm train --list.
        budget: Of each run: 2000steps, 10m (or s, h) of training, or 1e15flops.
        out: Folder of the comparison; the same command goes on with it after a stop.
        data: What all of them train on; by default each recipe's own.
        held_out: What all of them are measured on; by default the test split of a named data set.
        tasks: Names of tasks, separated by commas; what a model is not able to do is skipped and said.
        seeds: Runs of each recipe.
        limit: Items a task.
        batch_size: Questions asked together; no figure depends on it.
        settings: Change one setting of every recipe, such as batch_size=32; may be repeated.
    """
    if not recipes or out is None or not budget:
        raise UsageError(
            "recipes, --budget and --out are needed",
            hint="chiasm compare clip_pico siglip_pico --data scenes:train:captions --budget 400steps --out runs/c",
        )
    from chiasm.core.devices import keep_memory
    from chiasm.recipes.comparing import text_table
    from chiasm.recipes.comparison import Comparison, held_out_of
    from chiasm.recipes.comparison import compare as run

    keep_memory()
    asked = Comparison(
        recipes=tuple(_plain(name) for name in recipes),
        data=data,
        held_out=held_out or held_out_of(data),
        tasks=tuple(name.strip() for name in tasks.split(",") if name.strip()),
        budget=budget,
        seeds=seeds,
        settings=settings,
        limit=limit,
    )
    table = run(asked, out, batch_size, note)
    if options.json:
        emit(table)
        return
    say(text_table(table))
    say(str(out / "report.html"))


def _plain(text: str) -> str:
    """A recipe's name with dashes read as underscores; its own settings stay as they are (``1e-3``)."""
    name, mark, own = text.partition("?")
    return name.replace("-", "_") + mark + own
