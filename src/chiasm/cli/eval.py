"""`chiasm eval`: measure a model, with controls beside every score."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from chiasm.cli.options import LOADING, Loading
from chiasm.cli.output import UsageError, emit, note, say

if TYPE_CHECKING:
    from chiasm.evaluation.evaluate import Plan
    from chiasm.evaluation.protocol import Task

POOL = 256  # items that examples are taken from


def eval(
    model: str | None = None,
    /,
    *,
    tasks: str = "",
    out: Path | None = None,
    data: tuple[str, ...] = (),
    split: str | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    resume: bool = False,
    train_data: str | None = None,
    shots: str = "",
    shots_split: str = "train",
    rices: str | None = None,
    rescore: Path | None = None,
    against: Path | None = None,
    listing: Annotated[bool, Parameter(name="--list")] = False,
    options: Loading = LOADING,
) -> None:
    """Measure a model: chiasm eval nano --tasks scenes,stamps --out runs/nano.

    Args:
        model: A bundled name, a folder, or a hub id.
        tasks: Names of tasks or of groups of tasks, separated by commas; see --list.
        out: Folder of the run: outputs, results, report; by default eval/MODEL.
        data: A task's data, FOLDER or TASK=FOLDER; may be repeated; a data set's name for answers, captions, retrieval.
        split: Which part of the data, where a task has several.
        limit: Items a task.
        batch_size: Questions asked together; no figure depends on it.
        resume: Go on where an interrupted run stopped.
        train_data: Data that the model was trained on, looked for among the items' pictures.
        shots: Numbers of examples in the prompt, such as 0,4,8: one task becomes one for each.
        shots_split: Which part of the data the examples come from.
        rices: Take the examples whose pictures are nearest by this model's embeddings; by default they are drawn.
        rescore: Score the kept outputs of this run again; needs no model and no data.
        against: Another run on the same tasks: paired differences are told.
        listing: List the tasks instead.
    """
    from chiasm.evaluation.evaluate import Plan
    from chiasm.evaluation.evaluate import against as paired
    from chiasm.evaluation.evaluate import rescore as score_again

    if listing:
        _list(options)
        return
    if rescore is None:
        if model is None or not tasks:
            raise UsageError("a model and --tasks are needed", hint="chiasm eval nano --tasks scenes,stamps")
        if batch_size < 1 or (limit is not None and limit < 1):
            raise UsageError(f"--batch-size is {batch_size} and --limit {limit}, the least is 1")
        folder, folders = out or Path("eval") / Path(model).name, _folders(data)
        asked = _asked(tasks, shots, shots_split, folders, rices, options)
        settings = Plan(tasks=asked, out=folder, folders=folders, split=split, limit=limit, batch_size=batch_size,
                        resume=resume, training=_training(train_data))  # fmt: skip
        found = _measure(model, settings, bool(shots), options)
    else:
        folder, found = rescore, score_again(rescore)
    _tell(found, folder, None if against is None else paired(folder, against), options)


def _measure(model: str, settings: Plan, shots: bool, options: Loading) -> dict[str, Any]:
    from chiasm.evaluation.evaluate import evaluate
    from chiasm.evaluation.predictor import ModelPredictor

    loaded = options.load(model)
    if shots:  # the same examples stand before many questions
        loaded.remember_pictures()
    return evaluate(ModelPredictor(loaded, settings.batch_size), settings, _Progress())


def _tell(found: dict[str, Any], folder: Path, differences: Any, options: Loading) -> None:
    from chiasm.evaluation.table import table

    if differences is not None:
        found = {**found, "against": differences}
    if options.json:
        emit(found)
        return
    say(table(found))
    for task, told in (differences or {}).items():
        for metric, difference in told.items():
            if isinstance(difference, dict):
                test = difference.get("mcnemar")
                exact = "" if test is None else f", McNemar p {test['p']:.3g}"
                say(
                    f"{task:<22} {metric:<20} {difference['n']:>5} less the other run {difference['difference']:+.4f} "
                    f"({difference['low']:+.4f} to {difference['high']:+.4f}), p {difference['p']:.3g}{exact}"
                )
    say(f"{folder / 'report.html'}")


def _folders(words: tuple[str, ...]) -> dict[str, Path | str]:
    from chiasm.evaluation.tasks import tasks as known

    names = {name for task in known().values() for name in (task.name, task.group) if name}
    found: dict[str, Path | str] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        own = bool(equals) and name in names  # a data set's own name may hold an equals sign
        found[name if own else ""] = folder if own else word
    return found


def _asked(
    names: str, shots: str, split: str, folders: dict[str, Path | str], rices: str | None, options: Loading
) -> list[Task]:
    """The tasks, each once for each number of examples; those that write no text as they are."""
    from chiasm.evaluation.evaluate import folder_for
    from chiasm.evaluation.few_shot import curve, nearest_by, random_shots
    from chiasm.evaluation.predictor import ModelPredictor
    from chiasm.evaluation.protocol import Source
    from chiasm.evaluation.tasks import chosen

    asked = chosen([name.strip() for name in names.split(",") if name.strip()])
    if not shots:
        return asked
    try:
        counts = [int(word) for word in shots.split(",")]
    except ValueError:
        raise UsageError(f"--shots {shots!r} is no list of numbers", hint="--shots 0,4,8") from None
    found: list[Task] = []
    for task in asked:
        if task.way != "generate":
            found.append(task)
            continue
        pool = task.load(Source(folder=folder_for(task, folders), split=split, limit=POOL)).items
        select = random_shots(pool) if rices is None else nearest_by(ModelPredictor(options.load(rices)), pool)
        found += curve(task, select, counts)
    return found


def _training(spec: str | None) -> Any:
    if spec is None:
        return None
    from chiasm.data.open import open_dataset

    return open_dataset(spec)


class _Progress:
    """One line that is written over on a terminal; every tenth elsewhere."""

    def __init__(self) -> None:
        self.told: dict[str, int] = {}

    def __call__(self, task: str, done: int, count: int) -> None:
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{f'{task} {done}/{count}'[:width]:<{width}}", end="\n" if done == count else "", file=sys.stderr)
            return
        tenth = 10 * done // max(1, count)
        if tenth > self.told.get(task, -1):
            self.told[task] = tenth
            note(f"{task} {done}/{count}")


def _list(options: Loading) -> None:
    from chiasm.evaluation.protocol import needed
    from chiasm.evaluation.tasks import tasks as known

    rows = [
        {
            "name": task.name,
            "group": task.group or None,
            "about": task.about,
            "needs": needed(task.way),
            "data": "your copy" if task.needs_folder else "none",
        }
        for task in known().values()
    ]
    if options.json:
        emit(rows)
        return
    for row in rows:
        say(f"{row['name']:24} {row['needs']:9} {row['data']:10} {row['about']}")
