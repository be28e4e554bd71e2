"""COCO's mean average precision of boxes (Lin et al. 2014), as `pycocotools` computes it.

AP is the mean of precisions at 101 recalls, averaged over IoU 0.50, 0.55, … 0.95 and over the categories that occur.
Crowd regions may be matched any number of times and are ignored, as are true boxes outside an area range and what is
matched to them. Boxes are (x0, y0, x1, y1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
LIMITS = (1, 10, 100)


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """A true box; `area` is that of its mask where there is one, else the box's."""

    picture: str
    category: str
    box: tuple[float, float, float, float]
    crowd: bool = False
    area: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """A box that was found, with its score."""

    picture: str
    category: str
    box: tuple[float, float, float, float]
    score: float


def coco_map(detections: Sequence[Detection], truths: Sequence[Truth]) -> dict[str, float]:
    """COCO's twelve figures.

    Args:
        detections: what was found; of a picture's and category's, the 100 best scores count.
        truths: what is there.

    Returns:
        ``AP``, ``AP50``, ``AP75``, ``AP_small``, ``AP_medium``, ``AP_large``, ``AR@1``, ``AR@10``, ``AR@100``,
        ``AR_small``, ``AR_medium``, ``AR_large``, each in 0..1, or -1 where no true box is of that kind.
    """
    categories = sorted({truth.category for truth in truths})
    found = _grouped(detections)
    there = _grouped(truths)
    precision: dict[str, list[np.ndarray]] = {name: [] for name in AREAS}
    recall: dict[tuple[str, int], list[np.ndarray]] = {}
    for name, area in AREAS.items():
        for category in categories:
            keys = sorted(key for key in {*found, *there} if key[1] == category)
            matches = [_match(found.get(key, []), there.get(key, []), area) for key in keys]
            for limit in LIMITS:
                curve = _curve(matches, limit)
                if curve is None:
                    continue
                recall.setdefault((name, limit), []).append(curve[1])
                if limit == LIMITS[-1]:
                    precision[name].append(curve[0])
    figures = {
        "AP": _mean(precision["all"]),
        "AP50": _mean([curve[0] for curve in precision["all"]]),
        "AP75": _mean([curve[5] for curve in precision["all"]]),
    }
    figures |= {f"AP_{name}": _mean(precision[name]) for name in ("small", "medium", "large")}
    figures |= {f"AR@{limit}": _mean(recall.get(("all", limit), [])) for limit in LIMITS}
    figures |= {f"AR_{name}": _mean(recall.get((name, LIMITS[-1]), [])) for name in ("small", "medium", "large")}
    return figures


def _mean(values: Sequence[np.ndarray]) -> float:
    return float(np.mean(np.stack(values))) if values else -1.0


def _grouped(items: Sequence) -> Mapping[tuple[str, str], list]:
    groups: dict[tuple[str, str], list] = {}
    for item in items:
        groups.setdefault((item.picture, item.category), []).append(item)
    return groups


def _match(
    found: Sequence[Detection], there: Sequence[Truth], area: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Scores (D), matched (T, D), ignored (T, D) of a picture's best detections, and its true boxes that count."""
    found = sorted(found, key=lambda detection: -detection.score)[: LIMITS[-1]]
    sizes = [_area(truth.box) if truth.area is None else truth.area for truth in there]
    aside = [truth.crowd or not area[0] <= size <= area[1] for truth, size in zip(there, sizes, strict=True)]
    order = sorted(range(len(there)), key=lambda at: aside[at])  # those that count first
    there, aside = [there[at] for at in order], [aside[at] for at in order]
    overlap = np.array([[_overlap(d.box, t) for t in there] for d in found]).reshape(len(found), len(there))
    matched = np.zeros((len(THRESHOLDS), len(found)), dtype=bool)
    ignored = np.zeros_like(matched)
    outside = np.array([not area[0] <= _area(d.box) <= area[1] for d in found], dtype=bool)
    for row, threshold in enumerate(THRESHOLDS):
        taken = [False] * len(there)
        for column in range(len(found)):
            best = _best(overlap[column], there, aside, taken, min(threshold, 1 - 1e-10))
            if best is None:
                continue
            taken[best] = matched[row, column] = True
            ignored[row, column] = aside[best]
        ignored[row] |= ~matched[row] & outside
    return np.array([d.score for d in found]), matched, ignored, sum(not a for a in aside)


def _best(
    overlap: np.ndarray, there: Sequence[Truth], aside: Sequence[bool], taken: Sequence[bool], least: float
) -> int | None:
    """The true box that a detection goes to: the best that counts, else the best that doesn't; the last of equals."""
    best = None
    for at, truth in enumerate(there):
        if taken[at] and not truth.crowd:
            continue
        if best is not None and not aside[best] and aside[at]:
            break
        if overlap[at] >= least:
            least, best = overlap[at], at
    return best


def _curve(
    matches: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, int]], limit: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Precisions (T, 101) and final recalls (T,) of one category; None where none of its true boxes counts."""
    total = sum(match[3] for match in matches)
    if not total:
        return None
    scores = np.concatenate([match[0][:limit] for match in matches])
    order = np.argsort(-scores, kind="mergesort")
    matched = np.concatenate([match[1][:, :limit] for match in matches], axis=1)[:, order]
    ignored = np.concatenate([match[2][:, :limit] for match in matches], axis=1)[:, order]
    right = np.cumsum(matched & ~ignored, axis=1).astype(float)
    wrong = np.cumsum(~matched & ~ignored, axis=1).astype(float)
    precision, recall = np.zeros((len(THRESHOLDS), len(RECALLS))), np.zeros(len(THRESHOLDS))
    for row in range(len(THRESHOLDS)):
        if not len(scores):
            continue
        reached = right[row] / total
        exact = right[row] / (right[row] + wrong[row] + np.spacing(1))
        exact = np.maximum.accumulate(exact[::-1])[::-1]
        recall[row] = reached[-1]
        at = np.searchsorted(reached, RECALLS, side="left")
        precision[row, at < len(exact)] = exact[at[at < len(exact)]]
    return precision, recall


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(box: Sequence[float], truth: Truth) -> float:
    """IoU; for a crowd region the share of the box that lies in it."""
    other = truth.box
    width, height = min(box[2], other[2]) - max(box[0], other[0]), min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (_area(box) if truth.crowd else _area(box) + _area(other) - shared)
