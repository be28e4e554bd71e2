"""Error bars of what evaluations report."""

from __future__ import annotations

import math


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927); unlike the normal one it stays inside 0..1.

    Args:
        right: successes.
        count: trials, at least 1.
        z: standard deviations; 1.96 covers 95 %.

    Returns:
        The lower and the upper end, shares in 0..1.
    """
    share, spread = right / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
