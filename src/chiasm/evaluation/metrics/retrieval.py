"""Retrieval between pictures and texts: R@K, median rank, and re-ranking of a shortlist by a matching head.

A query is a hit where any of its true items is among the K best (five captions a picture: any of the five). Ties are
broken against the model: what scores as well as the true item stands before it, so a model that gives every item the
same score finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def first_ranks(scores: np.ndarray, true: Sequence[Sequence[int]]) -> np.ndarray:
    """Place of each query's best true item, from 0.

    Args:
        scores: (queries, items).
        true: each query's true items, at least one.

    Returns:
        (queries) places among the items; other true items of the same query are not counted against it.
    """
    found = np.zeros(len(scores), dtype=np.int64)
    for row, own in enumerate(true):
        best = max(scores[row, item] for item in own)
        others = np.delete(scores[row], list(own))
        found[row] = int(np.sum(~(others < best)))  # a score that is no number beats everything but finds nothing
    return found


def recall_at(ranks: np.ndarray, k: int) -> np.ndarray:
    """(queries) 1 where the place is among the k first, else 0."""
    return (np.asarray(ranks) < k).astype(float)


def median_rank(ranks: np.ndarray) -> float:
    """Median of the places counted from 1, rounded down as retrieval papers print it."""
    return float(np.floor(np.median(ranks)) + 1)


def rerank(
    scores: np.ndarray, match: Callable[[int, Sequence[int]], Sequence[float] | np.ndarray], shortlist: int = 128
) -> np.ndarray:
    """Order each query's shortlist anew by a matching head (Li et al. 2021, §3.2); the rest keeps its order below it.

    Args:
        scores: (queries, items) of the dual encoder.
        match: (query, items) → a matching score each.
        shortlist: items of a query that are matched.

    Returns:
        (queries, items) scores: those of the shortlist above all others.
    """
    result = np.empty(scores.shape, dtype=np.float64)
    for row, own in enumerate(scores):
        order = np.argsort(-own, kind="stable")
        result[row, order] = -np.arange(len(own), dtype=np.float64)
        best = order[:shortlist]
        anew = np.asarray(match(row, best.tolist()), dtype=np.float64)
        result[row, best] = 1.0 + anew - anew.min(initial=0.0)
    return result
