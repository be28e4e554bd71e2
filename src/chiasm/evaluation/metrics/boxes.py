"""Places: intersection over union, Acc@0.5 of referring expressions, pointing under one-to-one matching.

Boxes are (x0, y0, x1, y1) and points (x, y), both in original pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Box = Sequence[float]
Point = Sequence[float]


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; 0 where a box has no area."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def box_hit(found: Box | None, true: Box, threshold: float = 0.5) -> float:
    """RefCOCO's accuracy of one expression: 1 where the box overlaps the true one by at least `threshold`, else 0."""
    return float(found is not None and iou(found, true) >= threshold)


def in_box(point: Point, box: Box) -> bool:
    """Whether a point lies in a box, its edges included."""
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def in_mask(point: Point, mask: np.ndarray) -> bool:
    """Whether a point's pixel is set in a (h, w) mask; a point outside the picture is in none."""
    x, y = int(np.floor(point[0])), int(np.floor(point[1]))
    return 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and bool(mask[y, x])


def pointing(
    points: Sequence[Point], targets: Sequence[object], hit: Callable[[Point, object], bool]
) -> dict[str, float]:
    """Precision, recall and F1 of points, each point and each target used once (Deitke et al. 2024, §5).

    Args:
        points: what the model pointed at.
        targets: boxes, masks or whatever `hit` takes.
        hit: (point, target) → whether the point is on it.

    Returns:
        ``precision``, ``recall``, ``f1``, ``count`` (1 where as many points as targets were given). Nothing to point
        at and no point given is right.
    """
    count = float(len(points) == len(targets))
    if not points or not targets:
        value = float(not points and not targets)
        return {"precision": value, "recall": value, "f1": value, "count": count}
    cost = np.array([[0.0 if hit(point, target) else 1.0 for target in targets] for point in points])
    hits = sum(cost[i, j] == 0 for i, j in assignment(cost))
    precision, recall = hits / len(points), hits / len(targets)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"precision": precision, "recall": recall, "f1": f1, "count": count}


def assignment(cost: np.ndarray) -> list[tuple[int, int]]:
    """The one-to-one matching of least total cost (Kuhn 1955; shortest augmenting paths with potentials).

    Args:
        cost: (n, m), finite.

    Returns:
        min(n, m) pairs (row, column), by row.
    """
    cost = np.asarray(cost, dtype=np.float64)
    if cost.shape[0] > cost.shape[1]:
        return sorted((row, column) for column, row in assignment(cost.T))
    rows, columns = cost.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    owner = np.full(columns, -1)
    for start in range(rows):
        distance, before = np.full(columns, np.inf), np.full(columns, -1)
        done = np.zeros(columns, dtype=bool)
        row, least, last = start, 0.0, -1
        while True:
            reduced = cost[row] - row_price[row] - column_price + least
            nearer = ~done & (reduced < distance)
            distance[nearer], before[nearer] = reduced[nearer], last
            column = int(np.argmin(np.where(done, np.inf, distance)))
            least = float(distance[column])
            if owner[column] < 0:
                break
            done[column] = True
            row, last = int(owner[column]), column
        row_price[start] += least
        for settled in np.flatnonzero(done):
            row_price[owner[settled]] += least - distance[settled]
            column_price[settled] -= least - distance[settled]
        while column >= 0:  # turn the path around
            previous = int(before[column])
            owner[column] = start if previous < 0 else owner[previous]
            column = previous
    return sorted((int(row), column) for column, row in enumerate(owner) if row >= 0)
