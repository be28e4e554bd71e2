"""Pictures that come again: a tower's features kept by content, so that the examples of few-shot prompts are encoded
once, however many questions follow them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch

from chiasm.generation.store import Counts, Store


class RememberedFeatures:
    """Stands in for a module's `visual_features`; what a crop gives is computed once, each crop by itself, so that no
    bit depends on what it came with. While gradients are recorded it only passes on.

    Args:
        own: the module's method, (crops, 3, h, w) → (crops, P, D).
        capacity: most bytes kept; the longest unused leave first.
    """

    def __init__(self, own: Callable[[torch.Tensor], torch.Tensor], capacity: int) -> None:
        self.own = own
        self.store: Store[torch.Tensor] = Store(capacity)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """(crops, 3, h, w) → (crops, P, D)."""
        if torch.is_grad_enabled() or pixels.dim() != 4:
            return self.own(pixels)
        made: dict[bytes, torch.Tensor] = {}
        keys = [_key(crop) for crop in pixels]
        for key, crop in zip(keys, pixels.split(1), strict=True):
            if key in made:
                continue
            kept = self.store.get(key)
            made[key] = self.own(crop) if kept is None else kept
            if kept is None:
                self.store.put(key, made[key], made[key].numel() * made[key].element_size())
        return torch.cat([made[key] for key in keys])

    @property
    def counts(self) -> Counts:
        """Crops found, crops computed, bytes held."""
        return self.store.counts


def remember(module: Any, capacity: int) -> RememberedFeatures | None:
    """Keep the features of a module's tower from now on; None where it has no `visual_features`.

    Args:
        module: whose weights don't change any more.
        capacity: most bytes kept; 0 = forget, and keep nothing.
    """
    own = getattr(module, "visual_features", None)
    if own is None:
        return None
    if isinstance(own, RememberedFeatures):
        own = own.own
    kept = RememberedFeatures(own, capacity)
    object.__setattr__(module, "visual_features", kept if capacity else own)
    return kept if capacity else None


def _key(crop: torch.Tensor) -> bytes:
    key = hashlib.blake2b(repr((crop.dtype, tuple(crop.shape))).encode(), digest_size=32)
    key.update(crop.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return key.digest()
