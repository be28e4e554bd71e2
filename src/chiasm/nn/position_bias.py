"""Positions that are a bias on attention's scores: ALiBi, and T5's learned buckets of distance.

ALiBi (Press et al. 2022, §3): head h adds −m_h · (query − key), m_h = 2^(−8h/H). A constant a row changes no softmax,
so only the key's place counts. T5 (Raffel et al. 2020, §2.1): a learned number for each head and each bucket of
key − query; half of the buckets hold one distance each, the others grow logarithmically up to `max_distance`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class AlibiConfig:
    """Linear biases.

    Attributes:
        max_bias: exponent of the last head's slope.
    """

    max_bias: float = 8.0

    def slopes(self, num_heads: int) -> torch.Tensor:
        """(H,) float32; for H that is no power of two, every second slope of the next power comes first."""
        power = 2 ** math.ceil(math.log2(num_heads))
        slopes = 2.0 ** -(torch.arange(1, power + 1, dtype=torch.float32) * self.max_bias / power)
        return slopes if power == num_heads else torch.cat((slopes[1::2], slopes[::2]))[:num_heads]

    def bias(self, num_heads: int, keys: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """(1, H, 1, S), largest at the last key, where it is 0."""
        places = torch.arange(1 - keys, 1, device=device).float()
        return (self.slopes(num_heads).to(device)[:, None, None] * places)[None].to(dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class RelativeBiasConfig:
    """T5's buckets.

    Attributes:
        num_buckets: how many numbers a head learns.
        max_distance: all distances from here on share the last bucket.
    """

    num_buckets: int = 32
    max_distance: int = 128

    def build(self, num_heads: int, *, bidirectional: bool) -> RelativeBias:
        return RelativeBias(self, num_heads, bidirectional=bidirectional)


class RelativeBias(nn.Module):
    """(queries, keys) → a bias for every head, shared by all layers of a stack."""

    def __init__(self, config: RelativeBiasConfig, num_heads: int, *, bidirectional: bool) -> None:
        super().__init__()
        self.config, self.bidirectional = config, bidirectional
        self.table = nn.Embedding(config.num_buckets, num_heads)

    def buckets(self, distance: torch.Tensor) -> torch.Tensor:
        """key − query, any shape → the bucket of each, int64."""
        count = self.config.num_buckets
        found = torch.zeros_like(distance)
        if self.bidirectional:
            count //= 2
            found = (distance > 0) * count
            distance = distance.abs()
        else:
            distance = -distance.clamp(max=0)
        exact = count // 2
        ratio = math.log(self.config.max_distance / exact)
        # at least 1, because the logarithm of what is below isn't used
        far = exact + (torch.log(distance.clamp(min=1).float() / exact) / ratio * (count - exact)).long()
        return found + torch.where(distance < exact, distance, far.clamp(max=count - 1))

    def forward(self, queries: int, keys: int) -> torch.Tensor:
        """Bias of `queries` positions that are the last of `keys`.

        Args:
            queries: Q.
            keys: S.

        Returns:
            (1, H, Q, S).
        """
        device = self.table.weight.device
        places = torch.arange(keys, device=device)
        distance = places[None] - places[keys - queries :, None]  # (Q, S)
        return self.table(self.buckets(distance)).permute(2, 0, 1)[None]
