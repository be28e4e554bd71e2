"""A pooled picture → a few tokens before the text (Tsimpoukelli et al. 2021, "Frozen", §3.1: n = 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixConfig:
    """One affine map of the mean feature to n tokens.

    Attributes:
        input_dim: width of the features.
        output_dim: D of the tokens.
        num_tokens: n.
    """

    input_dim: int
    output_dim: int
    num_tokens: int = 2

    def visual_tokens(self, patches: int) -> int:
        """Tokens that `patches` features become."""
        return self.num_tokens

    def build(self) -> Prefix:
        return Prefix(self)


class Prefix(nn.Module):
    """mean over patches → linear → n tokens."""

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__()
        self.num_tokens = config.num_tokens
        self.proj = nn.Linear(config.input_dim, config.num_tokens * config.output_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, P, input_dim) features, or (B, input_dim) pooled ones → (B, n, output_dim)."""
        pooled = x.mean(1) if x.ndim == 3 else x
        return self.proj(pooled).unflatten(-1, (self.num_tokens, -1))
