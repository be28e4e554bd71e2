"""Questions with options: AI2D, ScienceQA, MMMU, MMBench.

| task | files |
|---|---|
| `ai2d` | `questions/*.json` and `images/`; `ai2d_test_ids.csv` beside them chooses the test set |
| `scienceqa` | `problems.json`, pictures in `images/SPLIT/ID/` or `SPLIT/ID/`; questions with a picture |
| `mmmu` | the Parquet files of a split, `**/validation-*.parquet` |
| `mmbench` | `mmbench_dev_en*.tsv` with base64 pictures; every rotation of the options is asked |
"""

from __future__ import annotations

import ast
import base64
import csv
import re
from collections.abc import Sequence
from typing import Any

from chiasm.core.errors import DataError
from chiasm.evaluation.controls import frequent
from chiasm.evaluation.metrics.choices import LETTERS, circular, open_match, rotations
from chiasm.evaluation.protocol import Item, Items, Metric, Source, Task, each
from chiasm.evaluation.reading import letter, said
from chiasm.evaluation.sources import build, choice, document, find, finder, folder_of, parquet_rows, question


def _right(item: Item, answer: Any) -> float:
    return float(answer == item.references[0]) if item.options else open_match(answer, item.references)


def letter_or_words(output: Any, item: Item) -> Any:
    """A letter where there are options, else the reply."""
    return letter(output, item) if item.options else said(output, item)


ACCURACY = Metric(name="accuracy", values=each(_right))


def _ai2d(source: Source) -> Items:
    root = folder_of(source)
    folder = root / "questions"
    ids = root / "ai2d_test_ids.csv"
    wanted = set(ids.read_text().split()) if ids.is_file() else None
    pictures = finder(folder / "any")

    def make(name: str, row: Any) -> list[Item]:
        row = document(folder / name)
        shown = row["imageName"]
        items: list[Item] = []
        for text, told in row["questions"].items():
            answer = LETTERS[told["correctAnswer"]]
            items.append(
                choice(f"{shown}/{len(items)}", pictures(shown), text, told["answerTexts"], answer, group=shown)
            )
        return items

    files = [path for path in sorted(folder.glob("*.json")) if wanted is None or path.name.split(".")[0] in wanted]
    rows: Any = ((path.name, None) for path in files)
    return build(folder, rows, make, source)


def _scienceqa(source: Source) -> Items:
    path = find(source, "problems.json", "**/problems.json")
    split = source.split or "test"
    pictures = finder(path, split, f"images/{split}")

    def make(name: str, row: Any) -> Item:
        hint = f"{row['hint'].strip()}\n" if row.get("hint") else ""
        text, answer = f"{hint}{row['question']}", LETTERS[row["answer"]]
        return choice(
            name, pictures(f"{name}/{row['image']}"), text, row["choices"], answer, kind=str(row.get("subject", ""))
        )

    rows = (
        (key, row)
        for key, row in document(path).items()
        if not isinstance(row, dict) or (row.get("split") == split and row.get("image"))
    )
    return build(path, rows, make, source)


def _mmmu(source: Source) -> Items:
    root = folder_of(source)

    def make(name: str, row: Any) -> Item:
        text, key = row["question"], row["id"]
        options = ast.literal_eval(row["options"]) if isinstance(row["options"], str) else row["options"]
        numbers = re.findall(r"<image (\d+)>", text + " ".join(map(str, options)))
        shown = [row[f"image_{number}"]["bytes"] for number in dict.fromkeys(numbers)]
        kind = re.sub(r"^[a-z]+_|_\d+$", "", key)
        if row["question_type"] == "multiple-choice":
            return choice(key, shown, text, options, row["answer"], kind=kind)
        answer = row["answer"]
        accepted = ast.literal_eval(answer) if isinstance(answer, str) and answer.startswith("[") else answer
        return question(key, shown, text, accepted, kind=kind)

    rows = parquet_rows(root, f"**/{source.split or 'validation'}-*.parquet")
    return build(root, rows, make, source)


def _mmbench(source: Source) -> Items:
    path = find(source, "*{split}*.tsv", "*dev*.tsv")
    csv.field_size_limit(2**30)  # pictures stand in the cells

    def make(name: str, row: Any) -> list[Item]:
        options = [row[mark] for mark in "ABCD" if row.get(mark)]
        if row.get("answer") not in tuple(LETTERS[: len(options)]):
            raise DataError("references_missing", f"the answer {row.get('answer')!r} is none of {len(options)} options")
        picture, right = base64.b64decode(row["image"]), LETTERS.index(row["answer"])
        hint = f"{row['hint']}\n" if row.get("hint") else ""
        return [
            choice(
                f"{row['index']}/{turn}",
                picture,
                hint + row["question"],
                [options[at] for at in order],
                LETTERS[order.index(right)],
                kind=str(row.get("category", "")),
                group=str(row["index"]),
            )
            for turn, order in enumerate(rotations(options))
        ]

    with path.open(encoding="utf-8", newline="") as file:
        return build(path, enumerate(csv.DictReader(file, delimiter="\t")), make, source)


def _circular(items: Sequence[Item], answers: Sequence[Any], values: Sequence[float]) -> float:
    found = circular(values, [item.group for item in items])
    return sum(found.values()) / len(found) if found else 0.0


def _task(name: str, about: str, load: Any, metrics: tuple[Metric, ...] = (ACCURACY,), tokens: int = 16) -> Task:
    return Task(
        name=name, about=about, way="generate", load=load, parse=letter_or_words, metrics=metrics, prior=frequent,
        max_new_tokens=tokens,
    )  # fmt: skip


TASKS = (
    _task("ai2d", "questions about diagrams of science books", _ai2d),
    _task("scienceqa", "school questions with a picture", _scienceqa),
    _task("mmmu", "college questions in thirty subjects", _mmmu, tokens=128),
    _task(
        "mmbench",
        "abilities of many kinds; right only in every rotation of the options",
        _mmbench,
        (Metric(name="circular", values=each(_right), pool=_circular), ACCURACY),
    ),
)
