"""Attention pooling by learned queries: any number of features becomes a fixed number of tokens (CoCa, §3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chiasm.nn.attention import AttentionConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionPoolConfig:
    """A pooler.

    Attributes:
        input_dim: width of the features.
        output_dim: D of queries and result.
        num_queries: Q.
        num_heads: H.
        norm_eps: ε of both norms.
    """

    input_dim: int
    output_dim: int
    num_queries: int
    num_heads: int = 8
    norm_eps: float = 1e-5

    def build(self) -> AttentionPool:
        return AttentionPool(self)


class AttentionPool(nn.Module):
    """Q learned queries attend to the features; both are normalised first."""

    def __init__(self, config: AttentionPoolConfig) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(config.num_queries, config.output_dim))
        self.norm_q = nn.LayerNorm(config.output_dim, eps=config.norm_eps)
        self.norm_kv = nn.LayerNorm(config.input_dim, eps=config.norm_eps)
        self.attn = AttentionConfig(
            hidden_dim=config.output_dim, num_heads=config.num_heads, context_dim=config.input_dim
        ).build()

    def init_weights(self) -> None:
        """Draw the queries."""
        nn.init.normal_(self.queries)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, S, input_dim) → (B, Q, output_dim)."""
        queries = self.norm_q(self.queries).expand(len(x), -1, -1)
        return self.attn(queries, self.norm_kv(x))
