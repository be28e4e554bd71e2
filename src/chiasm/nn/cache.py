"""The one key/value cache: preallocated once, written in place, read as a view."""

from __future__ import annotations

import torch


class Cache:
    """Keys and values of every layer for B sequences.

    Args:
        num_layers: L.
        batch: B.
        num_kv_heads: K.
        capacity: most positions a sequence can take.
        head_dim: C.
        value_dim: width of the values; None = C.
        dtype, device: of the stored tensors.
    """

    def __init__(
        self,
        num_layers: int,
        batch: int,
        num_kv_heads: int,
        capacity: int,
        head_dim: int,
        *,
        value_dim: int | None = None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_layers, batch, num_kv_heads, capacity)
        self.keys = torch.empty((*shape, head_dim), dtype=dtype, device=device)
        self.values = torch.empty((*shape, head_dim if value_dim is None else value_dim), dtype=dtype, device=device)
        self.length = 0
        self.capacity = capacity

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store T new positions of one layer; the caller moves on with `advance` after the last layer.

        Args:
            layer: index of the layer.
            keys, values: (B, K, T, C).

        Returns:
            All keys and values so far, views (B, K, S, C).
        """
        stop = self.length + keys.shape[2]
        assert stop <= self.capacity, f"cache holds {self.capacity} positions, {stop} needed"
        self.keys[layer, :, :, self.length : stop] = keys
        self.values[layer, :, :, self.length : stop] = values
        return self.keys[layer, :, :, :stop], self.values[layer, :, :, :stop]

    def advance(self, count: int) -> None:
        """Count T positions as stored, in every layer."""
        self.length += count

    def select(self, rows: torch.Tensor) -> None:
        """Keep the sequences `rows` (any number, repeats allowed), in that order: beams, finished requests."""
        self.keys = self.keys.index_select(1, rows)
        self.values = self.values.index_select(1, rows)
