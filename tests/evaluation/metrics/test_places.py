"""Boxes, points, detections and moments against reference implementations and plain loops."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from chiasm.evaluation.metrics.boxes import assignment, box_hit, in_box, in_mask, iou, pointing
from chiasm.evaluation.metrics.detection import Detection, Truth, coco_map
from chiasm.evaluation.metrics.temporal import span_iou, span_overlap, span_recall


def test_iou_against_pycocotools() -> None:
    from pycocotools import mask

    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 20, (300, 4)).astype(float) for _ in range(2))
    wanted = [
        mask.iou(x[None], y[None], [0])[0, 0] if x[2] * x[3] * y[2] * y[3] else 0.0 for x, y in zip(a, b, strict=True)
    ]
    corners = [np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1) for boxes in (a, b)]
    found = [iou(x, y) for x, y in zip(*corners, strict=True)]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_referring_expressions() -> None:
    assert box_hit([0, 0, 10, 10], [0, 0, 10, 20]) == 1.0, "an overlap of exactly a half counts"
    assert box_hit([0, 0, 10, 9.9], [0, 0, 10, 20]) == 0.0
    assert box_hit(None, [0, 0, 1, 1]) == 0.0
    assert iou([0, 0, 0, 0], [0, 0, 0, 0]) == 0.0


def test_assignment_against_scipy() -> None:
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(1)
    for case in range(250):
        shape = rng.integers(1, 9, 2)
        cost = rng.normal(size=shape) if case % 2 else rng.integers(0, 3, shape).astype(float)  # ties
        pairs = assignment(cost)
        rows, columns = linear_sum_assignment(cost)
        assert len(pairs) == min(shape) == len({i for i, _ in pairs}) == len({j for _, j in pairs})
        assert sum(cost[i, j] for i, j in pairs) == pytest.approx(cost[rows, columns].sum(), abs=1e-9)


def test_pointing_uses_each_target_once() -> None:
    boxes = [(0, 0, 10, 10), (5, 0, 15, 10)]
    two = pointing([(6, 5), (1, 5)], boxes, in_box)  # the first point lies in both boxes
    assert two == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "count": 1.0}
    same = pointing([(1, 1), (2, 2)], boxes[:1], in_box)
    assert same == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "count": 0.0}
    assert pointing([], [], in_box)["f1"] == 1.0
    assert pointing([(1, 1)], [], in_box)["f1"] == pointing([], boxes, in_box)["f1"] == 0.0
    mask = np.zeros((4, 6), dtype=bool)
    mask[1, 2] = True
    assert in_mask((2.9, 1.9), mask) and not in_mask((3.0, 1.0), mask) and not in_mask((-1, 1), mask)


def detections(seed: int, pictures: int = 6) -> tuple[list[Detection], list[Truth]]:
    """Boxes near and far from the truth, crowds, areas of every range, equal scores, a category never found."""
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for picture in range(pictures):
        for _ in range(rng.integers(0, 7)):
            x, y = rng.uniform(0, 300, 2)
            width, height = rng.choice((10, 40, 120), 2) * rng.uniform(0.6, 1.4, 2)
            category = str(rng.choice(list("abc")))
            box = (x, y, x + width, y + height)
            truths.append(Truth(picture=str(picture), category=category, box=box, crowd=bool(rng.random() < 0.15)))
            for _ in range(rng.integers(0, 4)):
                moved = np.array(box) + rng.normal(0, 0.12, 4) * (width, height, width, height)
                score = float(np.round(rng.random(), 1 if rng.random() < 0.5 else 6))
                other = str(rng.choice(list("abcd"))) if rng.random() < 0.2 else category
                if moved[2] > moved[0] and moved[3] > moved[1]:
                    found.append(Detection(picture=str(picture), category=other, box=tuple(moved), score=score))
    return found, truths


def reference(found: list[Detection], truths: list[Truth], pictures: int = 6) -> np.ndarray:
    """pycocotools' twelve figures."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def size(box: tuple[float, ...]) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    numbers = {name: at for at, name in enumerate("abcd", 1)}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": picture} for picture in range(pictures)],
            "categories": [{"id": at, "name": name} for name, at in numbers.items()],
            "annotations": [
                {
                    "id": at, "image_id": int(t.picture), "category_id": numbers[t.category], "bbox": size(t.box),
                    "area": (t.box[2] - t.box[0]) * (t.box[3] - t.box[1]), "iscrowd": int(t.crowd),
                }
                for at, t in enumerate(truths, 1)
            ],
        }  # fmt: skip
        coco.createIndex()
        results = coco.loadRes(
            [
                {"image_id": int(d.picture), "category_id": numbers[d.category], "bbox": size(d.box), "score": d.score}
                for d in found
            ]
        )
        scorer = COCOeval(coco, results, "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    stats: np.ndarray = scorer.stats
    return stats


def test_average_precision_against_pycocotools() -> None:
    names = (
        "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR@1", "AR@10", "AR@100", "AR_small", "AR_medium",
        "AR_large",
    )  # fmt: skip
    cases = 0
    for seed in range(220):
        found, truths = detections(seed, pictures=3)
        if not found or not truths:
            continue
        figures = coco_map(found, truths)
        np.testing.assert_allclose([figures[name] for name in names], reference(found, truths, 3), atol=1e-6)
        cases += 1
    assert cases >= 200
    assert coco_map([], []) == dict.fromkeys(names, -1.0)
    assert coco_map([], [Truth(picture="0", category="a", box=(0, 0, 50, 50))])["AP"] == 0.0


def test_moments() -> None:
    """Gao et al. 2017, §5.1: a moment counts where its overlap in time is at least the threshold."""
    assert span_iou((0, 10), (5, 15)) == pytest.approx(1 / 3)
    assert span_iou((0, 1), (2, 3)) == span_iou((5, 5), (5, 5)) == span_iou((3, 1), (0, 4)) == 0.0
    found, true = [(20.0, 30.0), (4.0, 10.0)], [(5.0, 10.0)]
    assert span_recall(found, true, 1, 0.3) == 0.0
    assert span_recall(found, true, 2, 0.5) == 1.0
    assert span_recall(found, true, 2, 0.9) == 0.0
    assert span_overlap(found, true) == 0.0 and span_overlap(found[1:], true) == pytest.approx(5 / 6)
    assert span_overlap([], true) == span_recall([], true, 5, 0.1) == 0.0


def test_moments_against_sets_of_instants() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        (a, b), (c, d) = np.sort(rng.integers(0, 30, (2, 2)), 1)
        first, second = set(range(a, b)), set(range(c, d))
        wanted = len(first & second) / len(first | second) if first | second else 0.0
        assert span_iou((a, b), (c, d)) == pytest.approx(wanted)
