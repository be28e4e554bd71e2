"""Open questions about photographs: VQAv2, OK-VQA, TextVQA, VizWiz, GQA. Copies in the published formats.

| task | files |
|---|---|
| `vqav2`, `okvqa` | a questions file and an annotations file, COCO's pictures beside them or in `images/` |
| `textvqa` | `TextVQA_0.5.1_val.json`, pictures in `train_images/` or `images/` |
| `vizwiz` | `val.json` and the pictures |
| `gqa` | `testdev_balanced_questions.json` and `images/` |
"""

from __future__ import annotations

from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart
from chiasm.core.samples import Place
from chiasm.data.open import open_dataset
from chiasm.data.rows import Fault, readable_rows
from chiasm.evaluation.controls import frequent
from chiasm.evaluation.metrics.answers import exact_match, gqa_match, vqa_accuracy
from chiasm.evaluation.protocol import Item, Items, Metric, Source, Task, each
from chiasm.evaluation.reading import said
from chiasm.evaluation.sources import SHORT, answered, asked, build, document, find, finder, listed, question


def _people(item: Item, answer: Any) -> float:
    return vqa_accuracy(answer, item.truth["people"])


VQA = (
    Metric(name="vqa_accuracy", values=each(_people)),
    Metric(name="exact_match", values=each(lambda item, answer: exact_match(answer, item.references))),
)


def _vqa(source: Source) -> Items:
    """VQA's pair of files, through the reader that training uses."""
    data = open_dataset(str(source.folder))
    rows, unreadable = readable_rows(data)
    faults: list[Fault] = []
    items: list[Item] = []
    for sample in rows:
        if source.limit is not None and len(items) == source.limit:
            break
        first = sample.conversation.messages[0]
        people = tuple(map(str, sample.annotations.get("answers", ())))
        picture = next(part for part in first.parts if isinstance(part, ImagePart))
        try:
            turn = Message("user", (picture, TextPart(f"{asked(first.text)}\n{SHORT}")))
        except DataError as error:
            faults.append(Fault(sample.place, error.code, error.what))
            continue
        best = sample.conversation.messages[-1].text if len(sample.conversation.messages) > 1 else ""
        items.append(
            Item(
                key=sample.key,
                conversation=Conversation((turn,)),
                references=(best,) if people else (),
                kind=str(sample.annotations.get("kind", "")),
                group=str(sample.annotations.get("image_id", "")),
                truth={"people": list(people)},
            )
        )
    return _without_answers(Items(items=items, faults=[*unreadable, *faults], fingerprint=data.fingerprint))


def _without_answers(found: Items) -> Items:
    """Questions of a hidden test set are faults, never scored."""
    bad = [Fault(Place("questions", item.key), "references_missing", "the question has no accepted answer")
           for item in found.items if not item.references]  # fmt: skip
    good = [item for item in found.items if item.references]
    return Items(items=good, faults=[*found.faults, *bad], fingerprint=found.fingerprint)


def _textvqa(source: Source) -> Items:
    path = find(source, "TextVQA_*_{split}.json", "TextVQA_*_val.json", "*.json")
    pictures = finder(path, "train_images", "test_images")

    def make(name: str, row: Any) -> Item:
        people = list(answered(row["answers"]))
        return question(
            str(row["question_id"]),
            pictures(f"{row['image_id']}.jpg"),
            row["question"],
            max(people, key=people.count),
            group=str(row["image_id"]),
            truth={"people": people},
        )

    return build(path, enumerate(document(path)["data"]), make, source)


def _vizwiz(source: Source) -> Items:
    path = find(source, "{split}.json", "val.json", "Annotations/val.json")
    pictures = finder(path, source.split or "val")

    def make(name: str, row: Any) -> Item:
        people = list(answered(row["answers"]))
        best = max(people, key=people.count)
        return question(row["image"], pictures(row["image"]), row["question"], best,
                        kind=str(row.get("answer_type", "")), truth={"people": people})  # fmt: skip

    return build(path, listed(path), make, source)


def _gqa(source: Source) -> Items:
    path = find(source, "{split}_balanced_questions.json", "testdev_balanced_questions.json", "*questions*.json")
    pictures = finder(path)

    def make(name: str, row: Any) -> Item:
        kind = str((row.get("types") or {}).get("structural", ""))
        picture = pictures(f"{row['imageId']}.jpg")
        return question(name, picture, row["question"], row["answer"], kind=kind, group=str(row["imageId"]))

    return build(path, document(path).items(), make, source)


def _task(name: str, about: str, load: Any, metrics: tuple[Metric, ...] = VQA) -> Task:
    return Task(name=name, about=about, way="generate", load=load, parse=said, metrics=metrics, prior=frequent)


TASKS = (
    _task("vqav2", "questions about photographs, ten people's answers", _vqa),
    _task("okvqa", "questions that need outside knowledge", _vqa),
    _task("textvqa", "questions about text in photographs", _textvqa),
    _task("vizwiz", "blind people's questions about their own photographs", _vizwiz),
    _task(
        "gqa",
        "compositional questions with one answer",
        _gqa,
        (Metric(name="accuracy", values=each(lambda item, answer: gqa_match(answer, item.references[0]))),),
    ),
)
