"""Classification, retrieval and picture metrics against plain loops and scipy."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.evaluation.metrics.classification import (
    average_precision,
    mean_average_precision,
    mean_per_class,
    ranks,
    top_k,
    zero_shot_head,
)
from chiasm.evaluation.metrics.pictures import clip_score, frechet_distance, ref_clip_score
from chiasm.evaluation.metrics.retrieval import first_ranks, median_rank, recall_at, rerank


def test_top_k_counts_ties_against_the_model() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores = rng.integers(0, 4, (5, 6)).astype(float)
        labels = rng.integers(0, 6, 5).tolist()
        for k in (1, 5):
            wanted = []
            for row, label in zip(scores, labels, strict=True):
                order = sorted(range(6), key=lambda c: (-row[c], c == label))
                wanted.append(float(label in order[:k]))
            assert top_k(scores, labels, k).tolist() == wanted
    assert top_k(np.zeros((3, 4)), [0, 1, 2], 1).sum() == 0.0, "equal scores win nothing"
    assert ranks(np.array([[np.nan, 0.0]]), [0]).tolist() == [1]


def test_mean_per_class() -> None:
    assert mean_per_class([1, 1, 1, 0], ["a", "a", "a", "b"]) == 0.5
    assert mean_per_class([], []) == 0.0


def test_average_precision_against_its_definition() -> None:
    rng = np.random.default_rng(1)
    for _ in range(250):
        count = int(rng.integers(1, 15))
        scores, positive = rng.integers(0, 6, count) / 5, rng.random(count) < 0.4
        total, wanted, before = positive.sum(), 0.0, 0.0
        for level in sorted(set(scores), reverse=True):
            chosen = scores >= level
            recall = (positive & chosen).sum() / total if total else 0.0
            wanted += (recall - before) * (positive & chosen).sum() / chosen.sum()
            before = recall
        assert average_precision(scores, positive) == pytest.approx(wanted)
    both = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert mean_average_precision(both, np.array([[True, False], [False, False]])) == 1.0
    assert mean_average_precision(both, np.zeros((2, 2), dtype=bool)) == 0.0


def test_zero_shot_heads_average_normalised_prompts() -> None:
    vectors = {"a cat": [1.0, 0.0], "cat!": [0.0, 1.0], "a dog": [0.6, 0.8], "dog!": [0.6, 0.8]}
    head = zero_shot_head(lambda texts: np.array([vectors[t] for t in texts]), ["cat", "dog"], ["a {}", "{}!"])
    np.testing.assert_allclose(head, [[0.5**0.5, 0.5**0.5], [0.6, 0.8]])


def test_places_of_true_items() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        scores = rng.integers(0, 5, (4, 9)).astype(float)
        true = [sorted(rng.choice(9, int(rng.integers(1, 4)), replace=False).tolist()) for _ in range(4)]
        wanted = []
        for row, own in zip(scores, true, strict=True):
            best = max(row[i] for i in own)
            wanted.append(sum(row[i] >= best for i in range(9) if i not in own))
        assert first_ranks(scores, true).tolist() == wanted
    constant = first_ranks(np.zeros((3, 50)), [[0], [1], [2]])
    assert recall_at(constant, 10).sum() == 0.0, "a blind model finds nothing by luck of the order"
    assert recall_at(np.array([0, 4, 5]), 5).tolist() == [1.0, 1.0, 0.0]


def test_median_rank() -> None:
    assert median_rank(np.array([0, 0, 5])) == 1.0
    assert median_rank(np.array([0, 3])) == 2.0


def test_reranking_touches_the_shortlist_only() -> None:
    scores = np.array([[0.9, 0.8, 0.1, 0.2]])
    new = rerank(scores, lambda query, items: [float(item == 1) for item in items], shortlist=2)
    assert np.argsort(-new[0]).tolist() == [1, 0, 3, 2]
    full = rerank(scores, lambda query, items: [-float(item) for item in items], shortlist=99)
    assert np.argsort(-full[0]).tolist() == [0, 1, 2, 3]


def test_clip_scores() -> None:
    """Hessel et al. 2021, §3: w · max(cos, 0) with w = 2.5, and the harmonic mean with the nearest reference."""
    pictures, texts = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[3.0, 4.0], [-1.0, 0.0]])
    assert clip_score(pictures, texts) == pytest.approx([1.5, 0.0])
    found = ref_clip_score(pictures, texts, [np.array([[3.0, 4.0], [0.0, 1.0]]), np.array([[1.0, 0.0]])])
    assert found == pytest.approx([2 * 1.5 / 2.5, 0.0])


def test_frechet_distance_against_scipy() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(3)
    for _ in range(200):
        first, second = rng.normal(size=(12, 4)), rng.normal(1.0, 2.0, (9, 4)) @ rng.normal(size=(4, 4))
        a, b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
        gap = first.mean(0) - second.mean(0)
        wanted = gap @ gap + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
        assert frechet_distance(first, second) == pytest.approx(wanted, rel=1e-6, abs=1e-6)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-6)
    flat = np.ones((5, 3))
    assert frechet_distance(flat, flat + 1) == pytest.approx(3.0)
