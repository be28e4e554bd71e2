"""Yes or no: POPE's three splits and MME.

| task | files |
|---|---|
| `pope` | `coco_pope_random.json`, `…_popular.json`, `…_adversarial.json` (JSON lines), COCO's val2014 pictures |
| `mme` | a folder a category with pictures and a text file each: two lines of question, tab, Yes or No |
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from chiasm.core.errors import DataError
from chiasm.data.stamps import digest_of, file_digest
from chiasm.evaluation.controls import frequent
from chiasm.evaluation.metrics.yes_no import mme, pope
from chiasm.evaluation.protocol import Item, Items, Metric, Source, Task, each
from chiasm.evaluation.reading import yes_or_no
from chiasm.evaluation.sources import build, finder, folder_of, listed, question

SPLITS = ("random", "popular", "adversarial")
PICTURES = (".jpg", ".jpeg", ".png")


def _pope(source: Source) -> Items:
    root = folder_of(source)
    found = []
    for part in [source.split] if source.split else SPLITS:
        for path in sorted(root.glob(f"**/*pope_{part}.json")):
            pictures = finder(path, "val2014")

            def make(name: str, row: Any, pictures: Any = pictures, part: str = part) -> Item:
                key = f"{part}/{row['question_id']}"
                return question(key, pictures(row["image"]), row["text"], str(row["label"]).lower(),
                                kind=part, group=row["image"])  # fmt: skip

            found.append(build(path, listed(path), make, source))
    if not found:
        raise DataError("file_missing", f"{root} holds no file *pope_{{random,popular,adversarial}}.json")
    turns = zip_longest(*(each.items for each in found))  # so that a limit takes as many of each split
    items = [item for turn in turns for item in turn if item is not None][: source.limit]
    faults = [fault for each in found for fault in each.faults]
    return Items(items=items, faults=faults, fingerprint=digest_of(*(each.fingerprint for each in found)))


def _mme(source: Source) -> Items:
    root = folder_of(source)
    files = sorted(path for path in root.glob("*/**/*.txt"))
    rows = []
    for path in files:
        category = path.relative_to(root).parts[0]
        homes = (path.parent, path.parent.parent / "images", path.parent.parent)
        shown = [home / f"{path.stem}{suffix}" for home in homes for suffix in PICTURES]
        picture = next((str(each) for each in shown if each.is_file()), str(shown[0]))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            if line.strip():
                words, _, answer = line.rpartition("\t")
                name = f"{category}/{path.stem}/{number}"
                rows.append((name, {"question": words, "answer": answer, "picture": picture, "category": category}))

    def make(name: str, row: Any) -> Item:
        answer = row["answer"].strip().lower()
        if answer not in ("yes", "no"):
            raise DataError("references_missing", f"the answer {row['answer']!r} is neither yes nor no")
        return question(name, row["picture"], row["question"], answer, ending="", kind=row["category"],
                        group=name.rpartition("/")[0])  # fmt: skip

    found = build(root, rows, make, source)
    digest = digest_of(*(file_digest(path) for path in files))
    return Items(items=found.items, faults=found.faults, fingerprint=digest)


def _right(item: Item, answer: Any) -> float:
    return float(answer == item.references[0])


def _pope_metric(name: str) -> Metric:
    def pool(items: Sequence[Item], answers: Sequence[Any], values: Sequence[float]) -> float:
        """The mean over the splits, as published tables have it."""
        found = []
        for split in sorted({item.kind for item in items}):
            chosen = [at for at, item in enumerate(items) if item.kind == split]
            replies, truth = [answers[at] for at in chosen], [items[at].references[0] for at in chosen]
            found.append(pope(replies, truth)[name])  # type: ignore[arg-type]
        return sum(found) / len(found) if found else 0.0

    return Metric(name=name, values=each(_right), pool=pool)


def _mme_metric(name: str) -> Metric:
    def pool(items: Sequence[Item], answers: Sequence[Any], values: Sequence[float]) -> float:
        return mme(values, [item.group for item in items], [item.kind for item in items])[name]

    return Metric(name=name, values=each(_right), pool=pool, percent=False)


TASKS = (
    Task(
        name="pope",
        about="is a named object in the photograph?",
        way="generate",
        load=_pope,
        parse=yes_or_no,
        metrics=tuple(_pope_metric(name) for name in ("f1", "accuracy", "precision", "recall", "yes_ratio")),
        prior=frequent,
    ),
    Task(
        name="mme",
        about="perception and cognition by pairs of yes-or-no questions",
        way="generate",
        load=_mme,
        parse=yes_or_no,
        metrics=(*(_mme_metric(name) for name in ("total", "perception", "cognition")),
                 Metric(name="accuracy", values=each(_right))),
        prior=frequent,
    ),
)  # fmt: skip
