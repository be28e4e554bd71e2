"""One affine map from visual features to the language model's width (LLaVA; Liu et al. 2023, eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearConnectorConfig:
    """Attributes: input_dim, output_dim (parameters are `weight` and `bias`)."""

    input_dim: int
    output_dim: int

    def build(self) -> nn.Linear:
        return nn.Linear(self.input_dim, self.output_dim)
