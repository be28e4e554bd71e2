"""Error bars, and whether two runs differ: Wilson, grouped bootstrap, paired bootstrap, McNemar."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

DRAWS, SEED = 1000, 0
Figure = Callable[[np.ndarray], float]


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


def resamples(groups: Sequence[str], draws: int = DRAWS, seed: int = SEED) -> list[np.ndarray]:
    """Row numbers of bootstrap samples that draw whole groups with replacement.

    Args:
        groups: the group of each row; rows of one group aren't independent.
        draws: how many samples.
        seed: of the draws; the same rows always give the same samples.
    """
    rng = np.random.default_rng(seed)
    names, where = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) == len(groups):
        return list(rng.integers(0, len(groups), (draws, len(groups))))
    order = np.argsort(where, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(where))[:-1])
    chosen = rng.integers(0, len(names), (draws, len(names)))
    return [np.concatenate([members[at] for at in draw]) for draw in chosen]


def interval(figures: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrap figures."""
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(np.asarray(figures), [tail, 100 - tail])
    return float(low), float(high)


def bootstrap(figure: Figure, samples: Sequence[np.ndarray]) -> tuple[float, tuple[float, float]]:
    """Standard error and 95 % interval of a figure.

    Args:
        figure: row numbers → the figure on those rows.
        samples: see `resamples`.
    """
    found = np.array([figure(rows) for rows in samples])
    return float(found.std(ddof=1)) if len(found) > 1 else 0.0, interval(found.tolist())


def paired(first: Figure, second: Figure, rows: int, samples: Sequence[np.ndarray]) -> dict[str, float]:
    """The difference of two figures on the same rows (Efron & Tibshirani 1993, ch. 16).

    Args:
        first, second: row numbers → the figure.
        rows: how many there are.
        samples: see `resamples`; both figures see the same draws.

    Returns:
        ``difference`` (first − second), ``low`` and ``high`` of its 95 % interval, and ``p``, twice the smaller share
        of draws on either side of zero.
    """
    everything = np.arange(rows)
    found = np.array([first(draw) - second(draw) for draw in samples])
    low, high = interval(found.tolist())
    p = min(1.0, 2 * min(float(np.mean(found <= 0)), float(np.mean(found >= 0))))
    return {"difference": first(everything) - second(everything), "low": low, "high": high, "p": p}


def mcnemar(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """McNemar's exact test of two runs on the same right-or-wrong items (McNemar 1947; binomial).

    Args:
        first, second: 1 or 0 an item.

    Returns:
        ``only_first``, ``only_second`` (items that just one got right) and the two-sided ``p``.
    """
    pairs = list(zip(first, second, strict=True))
    one = sum(a > b for a, b in pairs)
    other = sum(b > a for a, b in pairs)
    count, least = one + other, min(one, other)
    tail = sum(math.comb(count, k) for k in range(least + 1)) / 2**count
    return {"only_first": one, "only_second": other, "p": min(1.0, 2 * tail)}
