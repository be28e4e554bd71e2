"""Captions and retrieval on COCO and Flickr30k.

Reads COCO's `captions_val2017.json` (or 2014), or Karpathy's `dataset_coco.json` and `dataset_flickr30k.json`, with the
pictures beside them, in `images/`, or in the folders that those files name. `--split` chooses Karpathy's split.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chiasm.data.open import open_dataset
from chiasm.data.rows import readable_rows
from chiasm.evaluation.controls import frequent
from chiasm.evaluation.embedding import Retrieval
from chiasm.evaluation.protocol import Item, Items, Source, Task, ask
from chiasm.evaluation.ranking import retrieval_metrics
from chiasm.evaluation.reading import said
from chiasm.evaluation.sources import answered, build, document, find, finder
from chiasm.evaluation.tasks.scenes import caption_metrics

PROMPT = "Provide a one-sentence caption for the provided image."


def _loader(words: str) -> Any:
    def load(source: Source) -> Items:
        path = find(source, "dataset_*.json", "captions_{split}*.json", "annotations/captions_val*.json", "*.json")
        head = document(path)
        images = head.get("images") if isinstance(head, dict) else None
        if images and "sentences" in images[0]:
            return _karpathy(path, images, words, source)
        data = open_dataset(str(path))
        rows, faults = readable_rows(data)
        items = [
            Item(key=s.key, conversation=ask(next(s.conversation.images()).source, words), references=s.captions)
            for s in _first(rows, source.limit)
        ]
        return Items(items=items, faults=list(faults), fingerprint=data.fingerprint)

    return load


def _karpathy(path: Any, images: list[Any], words: str, source: Source) -> Items:
    wanted = source.split or "test"
    folders = sorted({str(row.get("filepath", "")) for row in images if isinstance(row, dict)})
    pictures = finder(path, *[folder for folder in folders if folder], "flickr30k-images", "flickr30k_images")

    def make(name: str, row: Any) -> Item:
        texts = answered([sentence["raw"].strip() for sentence in row["sentences"]])
        return Item(key=str(row["filename"]), conversation=ask(pictures(row["filename"]), words), references=texts)

    # what is no row can't say which split it is of: it is told, not left out
    rows = ((at, row) for at, row in enumerate(images) if not isinstance(row, dict) or row.get("split") == wanted)
    return build(path, rows, make, source)


def _first(rows: Iterator[Any], limit: int | None) -> Iterator[Any]:
    for number, row in enumerate(rows):
        if limit is not None and number == limit:
            return
        yield row


def _captions(name: str, about: str) -> Task:
    return Task(
        name=f"{name}_captions",
        group=name,
        about=about,
        way="generate",
        load=_loader(PROMPT),
        parse=said,
        metrics=caption_metrics(),
        prior=frequent,
        max_new_tokens=64,
    )


def _retrieval(name: str, about: str) -> Task:
    return Task(
        name=f"{name}_retrieval",
        group=name,
        about=about,
        way="embed",
        load=_loader(""),
        prepare=Retrieval(),
        metrics=retrieval_metrics(),
    )


TASKS = tuple(
    make(name, f"{what} of {shown}")
    for name, shown in (("coco", "COCO's photographs"), ("flickr30k", "Flickr30k's photographs"))
    for make, what in ((_captions, "captions"), (_retrieval, "retrieval"))
)
