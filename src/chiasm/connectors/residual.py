"""A small correction of a frozen encoder's vectors: u + fc2(act(fc1(u))), u = x / |x|; at first the identity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidualHeadConfig:
    """A correcting head.

    Attributes:
        input_dim: width of the vectors, and of the result.
        hidden_dim: of the correction.
        dropout: of the vectors and of the hidden layer, in training.
    """

    input_dim: int
    hidden_dim: int
    dropout: float = 0.1

    def build(self) -> ResidualHead:
        return ResidualHead(self)


class ResidualHead(nn.Module):
    """One vector → the same, corrected."""

    def __init__(self, config: ResidualHeadConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.input_dim, config.hidden_dim)
        self.fc2 = nn.Linear(config.hidden_dim, config.input_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.init_weights()

    def init_weights(self) -> None:
        """Begin as the identity."""
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, input_dim) → (B, input_dim), not normalised."""
        unit = F.normalize(x, dim=-1)
        return unit + self.fc2(self.dropout(F.gelu(self.fc1(self.dropout(unit)))))
