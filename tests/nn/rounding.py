"""Quantized layers in plain arithmetic."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from chiasm.nn.quantized import Int8Linear


def plain_int8(layer: Int8Linear, x: torch.Tensor) -> torch.Tensor:
    """What a layer of 8-bit weights computes, by a float32 product: each row of the input rounded to its own steps."""
    rows = x.float()
    if layer.fast:
        step = rows.abs().amax(-1, keepdim=True).clamp(min=1e-30) / layer.levels
        rows = (rows / step).round() * step
    return F.linear(rows, layer.rounded(), layer.bias).to(x.dtype)
