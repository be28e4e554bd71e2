"""Metrics without a package to compare with, on 200 drawn cases each beside their definition in `torch` or a loop."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from chiasm.evaluation.metrics.boxes import box_hit, pointing
from chiasm.evaluation.metrics.captions import chair
from chiasm.evaluation.metrics.choices import circular
from chiasm.evaluation.metrics.classification import mean_per_class
from chiasm.evaluation.metrics.language import perplexity
from chiasm.evaluation.metrics.pictures import clip_score, ref_clip_score
from chiasm.evaluation.metrics.retrieval import median_rank, rerank

CASES = range(200)


def test_perplexity_is_exp_of_the_cross_entropy() -> None:
    for seed in CASES:
        source = torch.Generator().manual_seed(seed)
        lengths = torch.randint(0, 6, (4,), generator=source).tolist()  # answers without a token, too
        logits = [4 * torch.randn(n, 9, generator=source, dtype=torch.float64) for n in lengths]
        ids = [torch.randint(0, 9, (n,), generator=source) for n in lengths]
        logprobs = [F.log_softmax(x, 1).gather(1, y[:, None])[:, 0].tolist() for x, y in zip(logits, ids, strict=True)]
        if not sum(lengths):
            assert perplexity(logprobs) == math.inf
            continue
        expected = F.cross_entropy(torch.cat(logits), torch.cat(ids)).exp().item()
        assert perplexity(logprobs) == pytest.approx(expected, rel=1e-9)


def test_clip_scores_are_cosines() -> None:
    for seed in CASES:
        rng = np.random.default_rng(seed)
        pictures, texts = rng.normal(size=(2, 5, 8)) * (rng.random((2, 5, 1)) > 0.2)  # vectors of zeros, too
        references = [rng.normal(size=(int(rng.integers(1, 4)), 8)) for _ in range(5)]
        cosines = F.cosine_similarity(torch.tensor(pictures), torch.tensor(texts), eps=1e-12).numpy()
        own = 2.5 * np.clip(cosines, 0, None)
        assert np.abs(clip_score(pictures, texts) - own).max() <= 1e-6
        near = [
            max(0.0, max(F.cosine_similarity(torch.tensor(r), torch.tensor(t)[None], eps=1e-12).tolist()))
            for r, t in zip(references, texts, strict=True)
        ]
        both = [2 * a * b / (a + b) if a + b else 0.0 for a, b in zip(own, near, strict=True)]
        assert np.abs(ref_clip_score(pictures, texts, references) - both).max() <= 1e-6


def test_circular_questions_count_where_all_rotations_do() -> None:
    for seed in CASES:
        rng = random.Random(seed)
        questions = [rng.choice("pqrs") for _ in range(rng.randint(0, 12))]
        rights = [float(rng.random() < 0.8) for _ in questions]
        expected = {
            q: float(all(right for right, other in zip(rights, questions, strict=True) if other == q))
            for q in questions
        }
        assert circular(rights, questions) == expected


def test_chair_counts_mentions_that_are_not_there() -> None:
    nouns = ("dog", "bench", "bus", "hot dog", "knife")
    synonyms = {name: name for name in nouns} | {"puppy": "dog"}
    for seed in CASES:
        rng = random.Random(seed)
        said = [[rng.choice([*nouns, "puppy"]) for _ in range(rng.randint(0, 4))] for _ in range(3)]
        captions = [" near a ".join(["thing", *names]) for names in said]
        objects = [set(rng.sample(nouns, rng.randint(0, 3))) for _ in said]
        found = [[synonyms[name] for name in names] for names in said]
        wrong = [sum(1 for name in names if name not in true) for names, true in zip(found, objects, strict=True)]
        assert chair(captions, objects, synonyms) == (wrong, [len(names) for names in found])


def test_means_over_classes_and_median_ranks() -> None:
    for seed in CASES:
        rng = random.Random(seed)
        labels = [rng.choice("abc") for _ in range(rng.randint(0, 9))]
        rights = [float(rng.random() < 0.5) for _ in labels]
        sizes, sums = Counter(labels), Counter()
        for right, label in zip(rights, labels, strict=True):
            sums[label] += right
        expected = statistics.fmean(sums[label] / sizes[label] for label in sizes) if sizes else 0.0
        assert mean_per_class(rights, labels) == pytest.approx(expected, abs=1e-12)
        ranks = [rng.randrange(20) for _ in range(rng.randint(1, 9))]
        assert median_rank(np.array(ranks)) == math.floor(statistics.median(ranks)) + 1


def test_a_reranked_shortlist_stands_before_the_rest() -> None:
    for seed in CASES:
        rng = np.random.default_rng(seed)
        scores, match = rng.integers(0, 4, (2, 3, 7)).astype(float)  # ties
        size = int(rng.integers(1, 9))
        new = rerank(scores, lambda query, items: [match[query, item] for item in items], size)  # noqa: B023
        for row in range(3):
            order = sorted(range(7), key=lambda item: -scores[row, item])  # noqa: B023
            short, rest = order[:size], order[size:]
            assert [new[row, item] for item in short] == [1 + match[row, item] for item in short]
            assert sorted(rest, key=lambda item: -new[row, item]) == rest  # noqa: B023
            assert not rest or min(new[row, short]) > max(new[row, rest])


def test_points_are_matched_as_well_as_any_way_of_matching_them() -> None:
    for seed in CASES:
        rng = random.Random(seed)
        points = [(rng.randrange(6), 0) for _ in range(rng.randint(0, 4))]
        targets = [(low := rng.randrange(6), low + rng.randrange(3)) for _ in range(rng.randint(0, 4))]
        found = pointing(points, targets, lambda point, span: span[0] <= point[0] <= span[1])  # type: ignore[index]
        if not points or not targets:
            assert found["f1"] == float(not points and not targets)
            continue
        few, many = (points, targets) if len(points) <= len(targets) else (targets, points)
        on = (lambda p, t: t[0] <= p[0] <= t[1]) if few is points else (lambda t, p: t[0] <= p[0] <= t[1])
        hits = max(sum(map(on, few, order)) for order in permutations(many, len(few)))  # type: ignore[arg-type]
        assert found["precision"] == pytest.approx(hits / len(points))
        assert found["recall"] == pytest.approx(hits / len(targets))
        assert found["f1"] == pytest.approx(2 * hits / (len(points) + len(targets)))


def test_boxes_hit_by_the_area_that_they_share() -> None:
    for seed in CASES:
        rng = random.Random(seed)
        a, b = ([x := rng.randrange(4), y := rng.randrange(4), x + rng.randrange(7), y + rng.randrange(7)]
                for _ in range(2))  # fmt: skip
        cells = [{(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])} for box in (a, b)]
        union = len(cells[0] | cells[1])
        assert box_hit(a, b) == float(union > 0 and 2 * len(cells[0] & cells[1]) >= union)
