"""Moments in videos: overlap in time, R@K,IoU and mIoU (Gao et al. 2017). Spans are (start, end) in seconds."""

from __future__ import annotations

from collections.abc import Sequence

Span = Sequence[float]


def span_iou(a: Span, b: Span) -> float:
    """Intersection over union of two spans; 0 where both are empty or a span ends before it starts."""
    if a[1] < a[0] or b[1] < b[0]:
        return 0.0
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - shared
    return shared / union if union > 0 else 0.0


def span_recall(found: Sequence[Span], true: Sequence[Span], k: int, threshold: float) -> float:
    """1 where one of the k first spans overlaps a true one by at least `threshold`, else 0.

    Args:
        found: spans, best first.
        true: true spans, usually one.
        k: how many of `found` count.
        threshold: least IoU.
    """
    return float(any(span_iou(span, other) >= threshold for span in found[:k] for other in true))


def span_overlap(found: Sequence[Span], true: Sequence[Span]) -> float:
    """IoU of the first span with the nearest true one: mIoU is its mean over queries; nothing found scores 0."""
    return max((span_iou(found[0], other) for other in true), default=0.0) if found else 0.0
