"""Statements about pictures: SNLI-VE and NLVR2.

| task | files |
|---|---|
| `snli_ve` | `snli_ve_dev.jsonl` (or test), Flickr30k's pictures in `flickr30k_images/` or `images/` |
| `nlvr2` | `dev.json` (JSON lines), pictures `dev-850-0-img0.png` in `dev/` or `images/` |
"""

from __future__ import annotations

from typing import Any

from chiasm.core.errors import DataError
from chiasm.evaluation.controls import frequent
from chiasm.evaluation.metrics.answers import exact_match
from chiasm.evaluation.metrics.yes_no import parse_yes_no
from chiasm.evaluation.protocol import Item, Items, Metric, Source, Task, each
from chiasm.evaluation.sources import build, choice, find, finder, listed, question
from chiasm.evaluation.tasks.options import ACCURACY, letter_or_words

LABELS = ("entailment", "neutral", "contradiction")
SAYS = ("it is surely true", "it may or may not be true", "it is surely false")


def _snli_ve(source: Source) -> Items:
    path = find(source, "snli_ve_{split}.jsonl", "snli_ve_dev.jsonl", "*.jsonl")
    pictures = finder(path, "flickr30k_images", "flickr30k-images")

    def make(name: str, row: Any) -> Item:
        if row["gold_label"] not in LABELS:
            raise DataError("references_missing", f"the label {row['gold_label']!r} is none of {', '.join(LABELS)}")
        picture = pictures(f"{row['Flickr30K_ID']}.jpg")
        answer = "ABC"[LABELS.index(row["gold_label"])]
        text = f'What does the picture say about this statement? "{row["sentence2"]}"'
        key = str(row.get("pairID") or name)
        return choice(key, picture, text, SAYS, answer, kind=row["gold_label"], group=str(row["Flickr30K_ID"]))

    return build(path, listed(path), make, source)


def _nlvr2(source: Source) -> Items:
    path = find(source, "{split}.json", "dev.json", "*.json")
    pictures = finder(path, source.split or "dev")

    def make(name: str, row: Any) -> Item:
        base = row["identifier"].rpartition("-")[0]
        shown = [pictures(f"{base}-img{number}.png") for number in (0, 1)]
        text = f'Is this statement about the two pictures true? "{row["sentence"]}"\nAnswer yes or no.'
        answer = {"true": "yes", "false": "no"}[str(row["label"]).lower()]
        return question(row["identifier"], shown, text, answer, ending="", group=base)

    return build(path, listed(path), make, source)


TASKS = (
    Task(
        name="snli_ve",
        about="does a photograph entail a statement?",
        way="generate",
        load=_snli_ve,
        parse=letter_or_words,
        metrics=(ACCURACY,),
        prior=frequent,
    ),
    Task(
        name="nlvr2",
        about="is a statement true of two photographs?",
        way="generate",
        load=_nlvr2,
        parse=lambda output, item: parse_yes_no(str(output)),
        metrics=(Metric(name="accuracy", values=each(lambda item, answer: exact_match(answer, item.references))),),
        prior=frequent,
    ),
)
