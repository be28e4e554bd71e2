"""Classification: top-k, mean per class, mean average precision, and zero-shot heads of prompt ensembles.

Zero-shot heads follow Radford et al. 2021, §3.1.4: a class's vector is the mean of its normalised prompts'
embeddings, normalised again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np


def top_k(scores: np.ndarray, labels: Sequence[int], k: int) -> np.ndarray:
    """Whether each row's true class is among its k best.

    Args:
        scores: (N, classes).
        labels: (N) true classes.
        k: how many count. A class that ties with the true one stands before it: equal scores win nothing.

    Returns:
        (N) 1 or 0.
    """
    return (ranks(scores, labels) < k).astype(float)


def ranks(scores: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """(N) place of each true class, from 0; of equals the true one comes last, as does a score that is NaN."""
    scores = np.where(np.isnan(scores), -np.inf, scores)
    true = scores[np.arange(len(scores)), list(labels)][:, None]
    return (scores >= true).sum(1) - 1


def mean_per_class(rights: Sequence[float], labels: Sequence[object]) -> float:
    """Accuracy averaged over the classes that occur; 0 without any sample."""
    found: dict[object, list[float]] = defaultdict(list)
    for right, label in zip(rights, labels, strict=True):
        found[label].append(right)
    return sum(sum(values) / len(values) for values in found.values()) / len(found) if found else 0.0


def average_precision(scores: Sequence[float] | np.ndarray, positive: Sequence[bool] | np.ndarray) -> float:
    """Area under the precision-recall curve in steps: Σ (Rₙ − Rₙ₋₁) Pₙ, one step for each different score.

    Returns:
        0 to 1; 0 where nothing is positive.
    """
    order = np.argsort(-np.asarray(scores, dtype=float), kind="stable")
    ranked, hit = np.asarray(scores, dtype=float)[order], np.asarray(positive, dtype=bool)[order]
    if not hit.any():
        return 0.0
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # equal scores are one step
    hits = np.cumsum(hit)[last]
    precision, recall = hits / (last + 1), hits / hit.sum()
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def mean_average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """`average_precision` averaged over the classes with a positive sample; (N, classes) each."""
    values = [average_precision(scores[:, c], positive[:, c]) for c in range(scores.shape[1]) if positive[:, c].any()]
    return sum(values) / len(values) if values else 0.0


def zero_shot_head(
    embed: Callable[[list[str]], np.ndarray], labels: Sequence[str], templates: Sequence[str]
) -> np.ndarray:
    """Class vectors of a prompt ensemble.

    Args:
        embed: texts → (N, E), L2-normalised.
        labels: class names.
        templates: prompts with ``{}`` for the name.

    Returns:
        (classes, E), L2-normalised.
    """
    vectors = embed([template.replace("{}", label) for label in labels for template in templates])
    mean = np.asarray(vectors, dtype=np.float64).reshape(len(labels), len(templates), -1).mean(1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)
