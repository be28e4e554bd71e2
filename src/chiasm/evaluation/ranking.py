"""Figures of tasks by embeddings, from the places that `embedding` keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chiasm.evaluation.controls import frequent
from chiasm.evaluation.metrics.classification import mean_per_class
from chiasm.evaluation.metrics.retrieval import median_rank
from chiasm.evaluation.protocol import Item, Metric, each

FAR = 10**9  # the place of what is never found


def classification_metrics() -> tuple[Metric, ...]:
    """top-1, top-5, mean per class."""

    def per_class(items: Sequence[Item], answers: Sequence[Any], values: Sequence[float]) -> float:
        return mean_per_class(values, [item.references[0] for item in items])

    first = each(lambda item, answer: float(answer["place"] < 1))
    return (
        Metric(name="top1", values=first),
        Metric(name="top5", values=each(lambda item, answer: float(answer["place"] < 5))),
        Metric(name="mean_per_class", values=first, pool=per_class),
    )


def frequent_class(items: Sequence[Item]) -> list[Any]:
    """The most frequent name, for every item."""
    names = frequent(items)
    return [
        {"place": 0 if name in item.references else FAR, "best": [name]}
        for name, item in zip(names, items, strict=True)
    ]


def retrieval_metrics() -> tuple[Metric, ...]:
    """R@1, 5, 10 and median rank, picture to text and text to picture."""
    found: list[Metric] = []
    for way in ("to_text", "to_picture"):
        found += [_recall(way, k) for k in (1, 5, 10)]
        found.append(_median(way))
    return tuple(found)


def matching_metrics() -> tuple[Metric, ...]:
    """How often the own caption is chosen; and of a matching head, how often one half parts right from wrong."""

    def parted(item: Item, answer: Any) -> float | None:
        if answer["by"] != "match":
            return None  # a cosine's half means nothing
        return 0.5 * (float(answer["own"] > 0.5) + float(answer["other"] < 0.5))

    return (
        Metric(name="chosen", values=each(lambda item, answer: float(answer["own"] > answer["other"]))),
        Metric(name="accuracy", values=each(parted), shown=True),
    )


def places(way: str, answer: Any) -> list[int]:
    """An answer's places one way: one of the picture, or one for each of its captions."""
    found = answer[way]
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _recall(way: str, k: int) -> Metric:
    def value(item: Item, answer: Any) -> float:
        return float(np.mean([place < k for place in places(way, answer)]))

    return Metric(name=f"{way}_r@{k}", values=each(value), shown=k != 5)


def _median(way: str) -> Metric:
    def pool(items: Sequence[Item], answers: Sequence[Any], values: Sequence[float]) -> float:
        return median_rank(np.array([place for answer in answers for place in places(way, answer)]))

    return Metric(
        name=f"{way}_median_rank", values=each(lambda item, answer: 0.0), pool=pool, percent=False, higher=False
    )
