"""Text in pictures: DocVQA, InfographicVQA, ChartQA, OCRBench.

| task | files |
|---|---|
| `docvqa` | `val_v1.0*.json` with `data`, pictures in `documents/` |
| `infovqa` | `infographicsVQA_val_v1.0*.json`, pictures by `image_local_name` |
| `chartqa` | `test_human.json` and `test_augmented.json`, pictures in `png/` |
| `ocrbench` | `OCRBench.json` and the pictures by `image_path` |
"""

from __future__ import annotations

from typing import Any

from chiasm.evaluation.controls import frequent
from chiasm.evaluation.metrics.documents import anls, ocr_contains, relaxed_match
from chiasm.evaluation.protocol import Item, Items, Metric, Source, Task, each
from chiasm.evaluation.reading import said
from chiasm.evaluation.sources import build, document, find, finder, folder_of, listed, question


def _docvqa(source: Source) -> Items:
    path = find(source, "*{split}_v1*.json", "*val*.json", "*.json")
    pictures = finder(path, "documents", "infographicsvqa_images")

    def make(name: str, row: Any) -> Item:
        shown = str(row.get("image") or row["image_local_name"])
        kind = ", ".join(row.get("question_types") or ())
        return question(str(row["questionId"]), pictures(shown), row["question"], row.get("answers"),
                        kind=kind, group=shown)  # fmt: skip

    return build(path, enumerate(document(path)["data"]), make, source)


def _chartqa(source: Source) -> Items:
    root = folder_of(source)
    parts = [find(Source(folder=root), f"**/{source.split or 'test'}_{part}.json") for part in ("human", "augmented")]
    found = []
    for path in parts:
        pictures, part = finder(path, "png"), path.stem.rpartition("_")[2]

        def make(name: str, row: Any, pictures: Any = pictures, part: str = part) -> Item:
            picture = pictures(row["imgname"])
            return question(f"{part}/{name}", picture, row["query"], row["label"], kind=part, group=row["imgname"])

        found.append(build(path, listed(path), make, source))
    items = [item for each in found for item in each.items][: source.limit]
    faults = [fault for each in found for fault in each.faults]
    return Items(items=items, faults=faults, fingerprint=" ".join(each.fingerprint for each in found))


def _ocrbench(source: Source) -> Items:
    path = find(source, "OCRBench.json", "*.json")
    pictures = finder(path, "OCRBench_Images")

    def make(name: str, row: Any) -> Item:
        formula = row.get("dataset_name") == "HME100k"
        return question(name, pictures(row["image_path"]), row["question"], row["answers"],
                        ending="", kind=str(row["type"]), truth={"formula": formula})  # fmt: skip

    return build(path, listed(path), make, source)


def _contains(item: Item, answer: Any) -> float:
    return ocr_contains(answer, item.references, handwritten_formula=bool(item.truth["formula"]))


def _task(name: str, about: str, load: Any, metric: Metric, tokens: int = 32) -> Task:
    return Task(
        name=name, about=about, way="generate", load=load, parse=said, metrics=(metric,), prior=frequent,
        max_new_tokens=tokens,
    )  # fmt: skip


ANLS = Metric(name="anls", values=each(lambda item, answer: anls(answer, item.references)))
RELAXED = Metric(name="relaxed_accuracy", values=each(lambda item, answer: relaxed_match(answer, item.references[0])))
TASKS = (
    _task("docvqa", "questions about scanned documents", _docvqa, ANLS),
    _task("infovqa", "questions about infographics", _docvqa, ANLS),
    _task("chartqa", "questions about charts; numbers may be off by 5 %", _chartqa, RELAXED),
    _task("ocrbench", "reading text of many kinds", _ocrbench, Metric(name="contains", values=each(_contains)), 128),
)
