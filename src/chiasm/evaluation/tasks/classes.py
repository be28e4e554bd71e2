"""Zero-shot classification of a folder of class folders; ImageNet's validation set with its names and 80 prompts.

`imagenet`: a folder with 1,000 folders named by WordNet ids (`n01440764`), whose order is that of the class names.
`folders`: any folder of folders, each named by its class (`golden_retriever`).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from chiasm.core.errors import DataError
from chiasm.data.pictures import SUFFIXES
from chiasm.data.stamps import digest_of
from chiasm.evaluation.embedding import ZeroShot
from chiasm.evaluation.protocol import Item, Items, Source, Task, ask
from chiasm.evaluation.ranking import classification_metrics, frequent_class
from chiasm.evaluation.sources import folder_of

PLAIN = ("a photo of a {}", "a picture of a {}", "{}")


@cache
def names(table: str) -> tuple[str, ...]:
    """The lines of a table of names, comments left out."""
    lines = (files("chiasm.data") / "names" / table).read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def _items(source: Source, labels: dict[str, str]) -> Items:
    root = folder_of(source)
    items = []
    for folder, label in labels.items():
        for path in sorted((root / folder).iterdir()):
            if path.suffix.lower() in SUFFIXES:
                key = f"{folder}/{path.name}"
                items.append(Item(key=key, conversation=ask(str(path), ""), references=(label,)))
    if source.limit is not None:  # a fair sample: round the classes
        items.sort(key=lambda item: digest_of(item.key))
    items = items[: source.limit]
    return Items(items=items, fingerprint=digest_of(*(item.key for item in items)))


def _folders(source: Source) -> list[str]:
    root = folder_of(source)
    found = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(found) < 2:
        raise DataError("folder_empty", f"{root} holds {len(found)} class folders, at least 2 are needed")
    return found


def _imagenet(source: Source) -> Items:
    found, classes = _folders(source), names("imagenet.txt")
    if len(found) != len(classes):
        raise DataError(
            "folder_empty", f"{source.folder} holds {len(found)} class folders, ImageNet has {len(classes)}"
        )
    return _items(source, dict(zip(found, classes, strict=True)))


def _named(source: Source) -> Items:
    return _items(source, {name: name.replace("_", " ") for name in _folders(source)})


def _task(name: str, about: str, load: Any, prepare: ZeroShot) -> Task:
    return Task(
        name=name, about=about, way="embed", load=load, prepare=prepare, metrics=classification_metrics(),
        prior=frequent_class,
    )  # fmt: skip


TASKS = (
    _task(
        "imagenet",
        "ImageNet's classes, 80 prompts",
        _imagenet,
        ZeroShot(names("imagenet_templates.txt"), names("imagenet.txt")),
    ),
    _task("folders", "classes by the names of folders", _named, ZeroShot(PLAIN)),
)
