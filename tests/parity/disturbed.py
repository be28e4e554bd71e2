"""Shared by the parity tests: what a reference left at zero is disturbed."""

from __future__ import annotations

import torch
from torch import nn


def disturb(reference: nn.Module, seed: int = 0, scale: float = 0.1) -> nn.Module:
    """Move biases and norms off zero and one, and matrices off tiny values: a swap would pass unseen otherwise."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in reference.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += scale * noise if parameter.ndim <= 1 else 0.05 * noise
    return reference.eval()
