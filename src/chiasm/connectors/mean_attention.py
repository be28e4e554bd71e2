"""Attention pooling whose query is the mean: InternVL's projector (Chen et al. 2023, "InternVL", §3.2; CoCa's pooling
with the mean in the learned query's place).

Query, keys and values pass a LayerNorm each; the heads' result is projected to the joint space at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chiasm.nn.attention import AttentionConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanAttentionConfig:
    """Pooling of any number of features to one vector.

    Attributes:
        input_dim: D of the features.
        output_dim: E of the vector.
        num_heads: H.
        norm_eps: ε of the three norms.
    """

    input_dim: int
    output_dim: int
    num_heads: int = 16
    norm_eps: float = 1e-5

    def build(self) -> MeanAttention:
        return MeanAttention(self)


class MeanAttention(nn.Module):
    """attention(norm(mean), norm(x), norm(x))."""

    def __init__(self, config: MeanAttentionConfig) -> None:
        super().__init__()
        width = config.input_dim
        self.norm_query, self.norm_keys, self.norm_values = (nn.LayerNorm(width, config.norm_eps) for _ in range(3))
        self.attn = AttentionConfig(hidden_dim=width, num_heads=config.num_heads, output_dim=config.output_dim).build()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, P, D) → (B, E)."""
        query = self.norm_query(x.mean(1, keepdim=True))
        return self.attn(query, projected=self.attn.project(self.norm_keys(x), self.norm_values(x)))[:, 0]
