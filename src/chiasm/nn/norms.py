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
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise.

        Args:
            x: (..., D).

        Returns:
            (..., D), in x's type.
        """
        if x.dtype == torch.float32:
            if x.numel() == len(self.weight) and x.device.type == "cpu" and not torch.is_grad_enabled():
                row = x.reshape(-1)
                factor = (float(row.dot(row)) / len(row) + self.eps) ** -0.5
                return torch.addcmul(_zero(), x, self.weight, value=factor)  # a plain number would be copied first
            return nn.functional.rms_norm(x, self.weight.shape, self.weight, self.eps)
        # half precision: the reference rounds to x's type before it scales
        return self.weight * nn.functional.rms_norm(x.float(), self.weight.shape, None, self.eps).to(x.dtype)


@cache
def _zero() -> torch.Tensor:
    return torch.zeros(1)
