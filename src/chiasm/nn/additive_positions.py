"""Positions that are added to a decoder's input embeddings: learned (Radford et al. 2019), or sines and cosines.

The sinusoid is that of tensor2tensor and fairseq: all sines, then all cosines, frequencies 10000^(−c/(D/2 − 1)), which
differs slightly from Vaswani et al. 2017, §3.5. Both skip `offset` rows, which published tables keep for padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnedPositionsConfig:
    """A table of vectors.

    Attributes:
        offset: rows before that of position 0 (OPT: 2).
    """

    offset: int = 0

    def build(self, context_length: int, hidden_dim: int) -> LearnedPositions:
        return LearnedPositions(self, context_length, hidden_dim)


class LearnedPositions(nn.Module):
    """position → row of a table."""

    def __init__(self, config: LearnedPositionsConfig, context_length: int, hidden_dim: int) -> None:
        super().__init__()
        self.offset = config.offset
        self.table = nn.Parameter(torch.zeros(context_length + config.offset, hidden_dim))

    def init_weights(self) -> None:
        """Draw the table as the references do."""
        nn.init.normal_(self.table, std=0.02)

    def forward(self, positions: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """(B, T) positions → (B, T, D) in `dtype`."""
        return self.table[positions + self.offset].to(dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class SinusoidPositionsConfig:
    """Fixed sines and cosines.

    Attributes:
        offset: the sinusoid's own position of position 0 (Kosmos-2: 2).
    """

    offset: int = 0

    def build(self, context_length: int, hidden_dim: int) -> SinusoidPositions:
        return SinusoidPositions(self, hidden_dim)


class SinusoidPositions(nn.Module):
    """position → sines and cosines, computed when asked for: nothing is stored, and no length is too long."""

    def __init__(self, config: SinusoidPositionsConfig, hidden_dim: int) -> None:
        super().__init__()
        self.offset, self.half_dim = config.offset, hidden_dim // 2

    def forward(self, positions: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """(B, T) positions → (B, T, D) in `dtype`."""
        step = -math.log(10000) / (self.half_dim - 1)
        frequencies = torch.exp(torch.arange(self.half_dim, device=positions.device).float() * step)
        angles = (positions + self.offset)[..., None].float() * frequencies  # (B, T, D/2)
        return torch.cat((angles.sin(), angles.cos()), -1).to(dtype)
