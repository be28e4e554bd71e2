"""Normalisation layers: torch's LayerNorm, and RMSNorm computed as LLaMA checkpoints expect.

`RMSNorm` (Zhang & Sennrich 2019, eq. 4) normalises in float32 and scales in the weight's type. On a processor torch
makes ten small operations of it, which for a single token take half as long as a matrix product: it has its own way.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import nn


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + ε) · weight over the last axis."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.dim, self.eps = dim, eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise.

        Args:
            x: (..., D).

        Returns:
            (..., D), in x's type.
        """
        weight = self.weight  # looked up once: a module looks for its parameters in Python
        if x.dtype == torch.float32:
            if x.numel() == self.dim and x.is_cpu and not torch.is_grad_enabled():
                row = x.reshape(-1)
                factor = (float(row.dot(row)) / self.dim + self.eps) ** -0.5
                return torch.addcmul(_zero(), x, weight, value=factor)  # a plain number would be copied first
            return nn.functional.rms_norm(x, weight.shape, weight, self.eps)
        # half precision: the reference rounds to x's type before it scales
        return weight * nn.functional.rms_norm(x.float(), weight.shape, None, self.eps).to(x.dtype)


@cache
def _zero() -> torch.Tensor:
    return torch.zeros(1)
