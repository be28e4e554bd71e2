"""Generated pictures: CLIPScore (Hessel et al. 2021) and the Fréchet distance (Heusel et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def clip_score(pictures: np.ndarray, texts: np.ndarray, weight: float = 2.5) -> np.ndarray:
    """CLIPScore of each pair: `weight` · max(cos, 0). The paper's uses CLIP ViT-B/32 and the prefix "A photo depicts ".

    Args:
        pictures: (N, E) embeddings of a dual encoder.
        texts: (N, E) of the texts.
        weight: the paper's 2.5.
    """
    cosines = np.sum(_unit(pictures) * _unit(texts), axis=1)
    return weight * np.maximum(cosines, 0.0)


def ref_clip_score(pictures: np.ndarray, texts: np.ndarray, references: Sequence[np.ndarray]) -> np.ndarray:
    """RefCLIPScore of each pair: the harmonic mean of its CLIPScore and its nearest reference's cosine, at least 0.

    Args:
        pictures, texts: as for `clip_score`.
        references: (R, E) embeddings of each pair's references.
    """
    own = clip_score(pictures, texts)
    near = np.array([max(0.0, float(np.max(_unit(r) @ t))) for r, t in zip(references, _unit(texts), strict=True)])
    total = own + near
    return np.divide(2 * own * near, total, out=np.zeros_like(total), where=total > 0)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Fréchet distance of two sets' Gaussians: |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½).

    It is an FID only on the features that FIDs are quoted with, the 2048 pooled ones of Inception-v3; whoever reports
    it says which features it was computed on and of how many pictures.

    Args:
        first: (N, D) features, N at least 2.
        second: (M, D), M at least 2.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    gap = first.mean(0) - second.mean(0)
    a, b = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (first, second))
    values, vectors = np.linalg.eigh(a)
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    # (Σ₁Σ₂)^½ has the trace of (Σ₁^½ Σ₂ Σ₁^½)^½, which is symmetric
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root), 0.0)).sum()
    return float(gap @ gap + np.trace(a) + np.trace(b) - 2 * shared)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
