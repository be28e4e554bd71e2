"""Perceptual prints of pictures, and the rows whose prints are close: near-linear in the number of pictures.

A print is a 16×16 RGB thumbnail and 64 bits of it: the signs of 64 fixed random projections of the thumbnail without
its mean (Charikar 2002), so one bit flips with probability angle / π and the noise of a new compression, which is small
beside the picture's own contrast, flips almost none. Flat stretches count little, unlike in gradient hashes.

Candidates share two of five bands of the bits (every pair of bands is a table, so any two prints that differ in at most
three bits meet in one of the ten), sorted rather than hashed. Within a run of equal keys each print meets the first and
the four before it: duplicates in any number cost linear time. A pair counts when its thumbnails agree cell by cell.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations

import numpy as np
from PIL import Image

SIDE = 16
CELLS = SIDE * SIDE * 3
_BITS = 64
_BANDS = ((0, 13), (13, 26), (26, 39), (39, 52), (52, 64))
_MOST_BITS = 3
_MEAN_LEVELS, _MOST_LEVELS = 2.0, 12  # 8-bit levels by which thumbnails of one picture differ: on average, at most
_FLAT = 2.0  # levels of contrast under which a picture is its mean colour
_FLAT_LEVELS = 0  # flat pictures have nothing else to be known by: one level of colour tells them apart
_BEFORE = (1, 2, 3, 4)
_CHUNK = 1 << 16


def print_of(picture: Image.Image) -> tuple[np.ndarray, int]:
    """The print of a picture.

    Args:
        picture: RGB, decoded.

    Returns:
        (CELLS,) uint8 thumbnail, and its 64 bits.
    """
    small = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    thumbnail = np.asarray(small, np.uint8).reshape(-1)
    levels = thumbnail.astype(np.float32)
    if _contrast(thumbnail[None])[0] < _FLAT:
        red, green, blue = (int(level) for level in levels.reshape(-1, 3).mean(0).round())
        return thumbnail, red << 32 | green << 16 | blue
    signs = _projections() @ (levels - levels.mean()) > 0  # (64,)
    return thumbnail, int(np.packbits(signs).view(np.uint64)[0])


@cache
def _projections() -> np.ndarray:
    return np.random.default_rng(20_260).standard_normal((_BITS, CELLS)).astype(np.float32)


def near_pairs(bits: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """Pairs of prints that look the same.

    Args:
        bits: (P,) uint64.
        thumbnails: (P, CELLS) uint8.

    Returns:
        (pairs, 2) int64, the earlier print first, sorted, each pair once. Of many prints that all look the same not
        every pair is given, but each print is joined to the first of them or to one that is.
    """
    if len(bits) < 2:
        return np.empty((0, 2), np.int64)
    close = [_close(bits, pairs) for pairs in _candidates(bits)]
    codes = np.unique(np.concatenate(close))  # earlier · P + later: each pair once, sorted
    pairs = np.stack([codes // len(bits), codes % len(bits)], 1)
    kept = [_agreeing(thumbnails, pairs[start : start + _CHUNK]) for start in range(0, len(pairs), _CHUNK)]
    return np.concatenate(kept) if kept else pairs


def _candidates(bits: np.ndarray) -> list[np.ndarray]:
    tables = []
    for bands in combinations(_BANDS, 2):
        mask = sum(((1 << stop) - (1 << start)) for start, stop in bands)
        key = bits & np.uint64(mask)
        order = np.argsort(key, kind="stable")  # rows of one key stay in their order
        sorted_key = key[order]
        new = np.ones(len(key), bool)
        new[1:] = sorted_key[1:] != sorted_key[:-1]
        head = np.maximum.accumulate(np.where(new, np.arange(len(key)), 0))
        here = np.flatnonzero(~new)
        pairs = [np.stack([order[head[here]], order[here]], 1)]
        for back in _BEFORE:
            reached = here[here - back > head[here]]
            pairs.append(np.stack([order[reached - back], order[reached]], 1))
        tables.append(np.concatenate(pairs))
    return tables


def _close(bits: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    pairs = pairs[np.bitwise_count(bits[pairs[:, 0]] ^ bits[pairs[:, 1]]) <= _MOST_BITS]
    return pairs[:, 0] * len(bits) + pairs[:, 1]


def _agreeing(thumbnails: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    apart = np.abs(thumbnails[pairs[:, 0]].astype(np.int16) - thumbnails[pairs[:, 1]].astype(np.int16))
    flat = (_contrast(thumbnails[pairs[:, 0]]) < _FLAT) & (_contrast(thumbnails[pairs[:, 1]]) < _FLAT)
    most = np.where(flat, _FLAT_LEVELS, _MOST_LEVELS)
    return pairs[(apart.mean(1) <= _MEAN_LEVELS) & (apart.max(1) <= most)]


def _contrast(thumbnails: np.ndarray) -> np.ndarray:
    """(P, CELLS) → (P,) levels that the cells of a channel differ by."""
    return thumbnails.reshape(len(thumbnails), -1, 3).astype(np.float32).std(1).max(1)
