"""A run: ask a model every task's items under every condition, keep the outputs, score them, write the files."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chiasm.core.errors import ChiasmError, ConfigError
from chiasm.core.messages import Conversation
from chiasm.core.samples import Dataset
from chiasm.data.named import is_named
from chiasm.data.rows import Fault
from chiasm.evaluation.asking import Asked, Request, ask_all, plan
from chiasm.evaluation.controls import CONDITIONS, media_key, parts_of, pictures_of
from chiasm.evaluation.embedding import Vectors, readable
from chiasm.evaluation.journal import Journal, request_key
from chiasm.evaluation.protocol import AT_ONCE, NEEDS, Item, Predictor, Source, Task, needed
from chiasm.evaluation.report import CARDS, page
from chiasm.evaluation.results import (
    item_rows,
    read_lines,
    results,
    sample_rows,
    stored_items,
    write_json,
    write_lines,
)
from chiasm.evaluation.scoring import Scored, by_condition, compare, score, summary
from chiasm.evaluation.tasks import tasks as known_tasks
from chiasm.processing.pictures import read_picture

FIRST = 2 * CARDS  # pictures are kept of so many items; the report shows some of them


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to evaluate.

    Attributes:
        tasks: in this order.
        out: folder of the run.
        folders: by task or group, the user's copy of its data.
        split: which part, where a task has several; None = each task's own choice.
        limit: items a task; None = all.
        batch_size: requests asked together; no figure depends on it.
        resume: go on where an interrupted run stopped.
        training: data that the model was trained on, to be looked for among the items' pictures.
    """

    tasks: Sequence[Task]
    out: Path
    folders: Mapping[str, Path | str] = field(default_factory=dict)
    split: str | None = None
    limit: int | None = None
    batch_size: int = 8
    resume: bool = False
    training: Dataset | None = None


def evaluate(
    predictor: Predictor, settings: Plan, progress: Callable[[str, int, int], None] = lambda task, done, count: None
) -> dict[str, Any]:
    """Run tasks and write every file of the run.

    Args:
        predictor: the model.
        settings: what to do.
        progress: told (task, done, all) after every batch.

    Returns:
        The results file's content.

    Raises:
        ConfigError: the folder holds another run, or one that `resume` wasn't said for; a task's data is missing.
    """
    able, skipped = _able(predictor, settings)
    manifest = {**predictor.manifest(), "tasks": {}, "limit": settings.limit, "split": settings.split}
    loaded: list[tuple[Task, Any]] = []
    for task in able:
        items = task.load(Source(folder=folder_for(task, settings.folders), split=settings.split, limit=settings.limit))
        _check_keys(task, items.items)
        if not items.items:
            first = f", first: {items.faults[0].reason}" if items.faults else ""
            raise ConfigError("task_empty", f"{task.name} has 0 usable items and {len(items.faults)} bad rows{first}")
        loaded.append((task, items))
        manifest["tasks"][task.name] = {"version": task.version, "data": items.fingerprint, "items": len(items.items)}
    _open_folder(settings, manifest)
    trained = _picture_keys(settings.training) if settings.training is not None else None
    overlap: dict[str, Any] = {}
    for task, items in loaded:
        begun = time.time()
        journal = Journal(settings.out / "outputs" / f"{task.name}.jsonl")
        before = len(journal.outputs)
        step = _embed if task.way in AT_ONCE else _ask
        asked = step(task, items.items, predictor, journal, settings.batch_size, progress)
        rows = {condition: [request.key for request in asked.requests[condition]] for condition in CONDITIONS}
        write_lines(settings.out / "items" / f"{task.name}.jsonl", item_rows(asked.items, rows))
        write_json(settings.out / "items" / f"{task.name}.bad.json", _faults([*items.faults, *asked.faults]))
        _keep_pictures(task, asked, predictor, settings.out / "pictures" / task.name)
        if trained is not None:
            overlap[task.name] = _overlap(asked.items, trained)
        _log(settings.out, task, begun, len(journal.outputs) - before, settings.batch_size)
    write_json(settings.out / "skipped.json", {"skipped": skipped, "overlap": overlap})
    return rescore(settings.out)


def rescore(out: Path) -> dict[str, Any]:
    """Score a run's kept outputs anew and write its results, samples and report; needs no model and no data.

    Args:
        out: folder of the run.

    Returns:
        The results file's content.

    Raises:
        ConfigError: the folder holds no finished run, or a task that isn't known any more.
    """
    manifest = _read(out / "manifest.json")
    told = _read(out / "skipped.json")
    scores: list[tuple[Scored, Mapping[str, Any], Sequence[Fault]]] = []
    cards: dict[str, list[dict[str, Any]]] = {}
    for name in manifest["tasks"]:
        scored, faults = scored_run(out, name)
        found = summary(scored)
        scores.append((scored, found, faults))
        write_lines(out / "samples" / f"{name}.jsonl", sample_rows(scored))
        cards[name] = _cards(out / "pictures" / name, scored)
    document = results(manifest, scores, told["skipped"], told["overlap"])
    write_json(out / "results.json", document)
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (out / "report.html").write_text(page(document, cards, text), encoding="utf-8")
    return document


def against(first: Path, second: Path) -> dict[str, Any]:
    """Two runs, task by task, on the items that both have: paired bootstrap and McNemar's test."""
    names = [
        name for name in _read(first / "manifest.json")["tasks"] if name in _read(second / "manifest.json")["tasks"]
    ]
    if not names:
        raise ConfigError("runs_disjoint", f"{first} and {second} have 0 tasks in common")
    return {name: compare(scored_run(first, name)[0], scored_run(second, name)[0]) for name in names}


def scored_run(out: Path, name: str) -> tuple[Scored, list[Fault]]:
    """One task of a finished run, scored anew, and its unusable rows."""
    base = name.partition("@")[0]  # a number of examples stands behind the name
    if base not in known_tasks():
        known = ", ".join(known_tasks())
        raise ConfigError("task_unknown", f"the run has task {name!r}, which isn't known; known: {known}")
    task = replace(known_tasks()[base], name=name)
    items, requests = stored_items(read_lines(out / "items" / f"{name}.jsonl"))
    journal = Journal(out / "outputs" / f"{name}.jsonl")
    missing = sum(key not in journal for keys in requests.values() for key in keys)
    if missing:
        raise ConfigError(
            "run_incomplete", f"{out} lacks {missing} outputs of {name}", hint="the same command with --resume"
        )
    faults = [Fault(_place(row), row["code"], row["reason"]) for row in _read(out / "items" / f"{name}.bad.json")]
    return score(task, items, by_condition(requests, journal.outputs)), faults


def _able(predictor: Predictor, settings: Plan) -> tuple[list[Task], dict[str, str]]:
    able, skipped = [], {}
    for task in settings.tasks:
        if any(need <= set(predictor.capabilities) for need in NEEDS[task.way]):
            able.append(task)
        else:
            has = ", ".join(sorted(predictor.capabilities))
            skipped[task.name] = f"the model has no {needed(task.way)}; it has {has}"
    if not able:
        first = next(iter(skipped.items()), ("none", "no task was asked for"))
        raise ConfigError("tasks_skipped", f"0 of {len(settings.tasks)} tasks can be run; {first[0]}: {first[1]}")
    return able, skipped


def folder_for(task: Task, folders: Mapping[str, Path | str]) -> Path | str | None:
    """The data of a task among what the user named; None for a task that needs none.

    Raises:
        ConfigError: none was named, or it isn't there.
    """
    base = task.name.partition("@")[0]
    folder = folders.get(base, folders.get(task.group, folders.get("")))
    if not task.needs_folder:
        return None
    if folder is None:
        raise ConfigError(
            "task_folder", f"{task.name} reads your copy of its data; 0 folders were given", hint="--data FOLDER"
        )
    parts = [str(folder)] if Path(folder).exists() else str(folder).split(" + ")
    if not all(Path(part).exists() or is_named(part) for part in parts):
        raise ConfigError("folder_missing", f"{folder} isn't there ({task.name})")
    return folder


def _check_keys(task: Task, items: Sequence[Item]) -> None:
    keys = [item.key for item in items]
    if len(set(keys)) < len(keys):
        twice = next(key for at, key in enumerate(keys) if key in keys[:at])
        raise ConfigError(
            "key_twice", f"{task.name}: {len(keys)} items, {len(set(keys))} different keys; {twice!r} is twice there"
        )


def _open_folder(settings: Plan, manifest: Mapping[str, Any]) -> None:
    path = settings.out / "manifest.json"
    if path.is_file():
        if not settings.resume:
            raise ConfigError("out_exists", f"{settings.out} holds a run already", hint="--resume, or another --out")
        old = _read(path)
        plain = json.loads(json.dumps(manifest))
        differing = [key for key in {**old, **plain} if old.get(key) != plain.get(key)]
        if differing:
            raise ConfigError("eval_mismatch", f"the run in {settings.out} differs in {', '.join(sorted(differing))}")
    write_json(path, manifest)


def _ask(
    task: Task, items: Sequence[Item], predictor: Predictor, journal: Journal, batch_size: int, progress: Any
) -> Asked:
    asked = plan(task, items)
    ask_all(task, asked, predictor, journal, batch_size, progress)
    return asked


def _embed(
    task: Task, items: Sequence[Item], predictor: Predictor, journal: Journal, batch_size: int, progress: Any
) -> Asked:
    usable, keys, faults = readable(task.name, items)
    outputs = task.prepare.outputs(usable, keys, Vectors(predictor, journal))
    requests: dict[str, list[Request]] = {}
    for condition in CONDITIONS:
        requests[condition] = [
            Request(
                key=request_key(Conversation(), [], condition, item.key),
                pictures="",
                conversation=item.conversation,
                item=item,
            )
            for item in usable
        ]
        new = zip(requests[condition], outputs[condition], strict=True)
        journal.add({request.key: output for request, output in new if request.key not in journal})
    progress(task.name, len(usable), len(usable))
    return Asked(items=usable, requests=requests, faults=faults)


def _keep_pictures(task: Task, asked: Asked, predictor: Predictor, folder: Path) -> None:
    """What the model saw of the first items; for tasks about places the whole picture, which marks are drawn on."""
    for at, item in enumerate(asked.items[:FIRST]):
        if not pictures_of(item.conversation) or (folder / f"{at}-0.png").is_file():
            continue
        try:
            shown = [read_picture(item.picture)] if task.way == "ground" else predictor.seen(item.conversation)
        except ChiasmError:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(shown[:4]):
            data = io.BytesIO()
            picture.convert("RGB").save(data, "PNG")
            (folder / f"{at}-{number}.png").write_bytes(data.getvalue())


def _cards(folder: Path, scored: Scored) -> list[dict[str, Any]]:
    """Wrong and right samples in turn, those whose picture was kept."""
    invalid = {item.key for item, _, _ in scored.invalid}
    name = scored.task.metrics[0].name
    values, found = scored.values[name]["seen"], []
    position = {item.key: at for at, item in enumerate(scored.items)}
    stored = [row["key"] for row in read_lines(folder.parents[1] / "items" / f"{scored.task.name}.jsonl")][:FIRST]
    for place, key in enumerate(stored):
        if key in invalid:
            continue
        at = position[key]
        item, answer = scored.items[at], scored.answers["seen"][at]
        pictures = [path.read_bytes() for path in sorted(folder.glob(f"{place}-*.png"))]
        found.append(
            {
                "question": item.question,
                "reply": _said(scored.outputs["seen"][at]),
                "answer": answer,
                "references": " | ".join(item.references[:5]) or json.dumps(item.truth, ensure_ascii=False)[:300],
                "value": values[at],
                "pictures": pictures,
                "marks": _marks(scored.task, item, answer, pictures),
            }
        )
    wrong = [card for card in found if (card["value"] or 0) < 0.5][: CARDS // 2]
    right = [card for card in found if (card["value"] or 0) >= 0.5][: CARDS - len(wrong)]
    return [*wrong, *right]


def _said(output: Any) -> str:
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)[:300]


def _marks(task: Task, item: Item, answer: Any, pictures: Sequence[bytes]) -> dict[str, Any]:
    if task.way == "locate":
        spans = [(span, True) for span in item.truth.get("spans", ())] + [(span, False) for span in (answer or [])[:1]]
        return {"spans": [{"place": place, "true": true} for place, true in spans]}
    if task.way != "ground" or not pictures:
        return {}
    from PIL import Image

    with Image.open(io.BytesIO(pictures[0])) as picture:
        size = picture.size
    true = [each["box"] for each in item.truth.get("boxes", ())]
    given = [] if answer is None else [answer] if isinstance(answer[0], (int, float)) else answer
    places = [(place, True) for place in true] + [(place, False) for place in given]
    return {"size": size, "places": [{"place": place, "true": true} for place, true in places]}


def _picture_keys(data: Dataset) -> set[str]:
    """Keys of every picture of a data set; rows that can't be read are left out."""
    found = set()
    for at in range(len(data)):
        try:
            found |= {media_key(part) for part in parts_of(data[at].conversation)}
        except ChiasmError:
            continue
    return found


def _overlap(items: Sequence[Item], trained: set[str]) -> dict[str, Any]:
    keys = [item.key for item in items if any(media_key(part) in trained for part in parts_of(item.conversation))]
    return {"items": len(keys), "of": len(items), "keys": keys[:100]}


def _faults(faults: Sequence[Fault]) -> list[dict[str, Any]]:
    return [{"source": f.place.source, "row": f.place.row, "code": f.code, "reason": f.reason} for f in faults]


def _place(row: Mapping[str, Any]) -> Any:
    from chiasm.core.samples import Place

    return Place(row["source"], row["row"])


def _log(out: Path, task: Task, begun: float, asked: int, batch_size: int) -> None:
    seconds = time.time() - begun
    row = {
        "task": task.name,
        "began": round(begun),
        "seconds": round(seconds, 3),
        "asked": asked,
        "batch_size": batch_size,
    }
    with (out / "run.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("run_incomplete", f"{path} isn't there", hint="the same command with --resume") from None
    except ValueError as error:
        raise ConfigError("json_malformed", f"{path}: {error}") from None
