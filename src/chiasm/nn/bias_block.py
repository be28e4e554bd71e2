"""A pre-norm layer whose attention has one learned key and value beside those of its input (ImageBind's code)."""

from __future__ import annotations

import torch
from torch import nn

from chiasm.nn.attention import Attention
from chiasm.nn.blocks import BlockConfig


class BiasKeyBlock(nn.Module):
    """Pre-norm layer, bidirectional, with a learned key and value to rest on."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        width = config.attention.hidden_dim
        self.norm1 = config.norm()
        attention = config.attention.build()
        assert isinstance(attention, Attention)
        self.attn: Attention = attention
        self.bias_k = nn.Parameter(torch.zeros(width))
        self.bias_v = nn.Parameter(torch.zeros(width))
        self.norm2 = config.norm()
        self.mlp = config.mlp.build()

    def init_weights(self) -> None:
        """Draw key and value as torch's attention does."""
        nn.init.normal_(self.bias_k, std=self.bias_k.shape[0] ** -0.5)
        nn.init.normal_(self.bias_v, std=self.bias_v.shape[0] ** -0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, D) → (B, T, D)."""
        normed = self.norm1(x)
        keys, values = self.attn.project(normed)
        shape = (1, self.attn.num_heads, 1, self.attn.head_dim)
        keys = torch.cat((keys, self.bias_k.view(shape).expand(len(x), -1, -1, -1)), 2)
        values = torch.cat((values, self.bias_v.view(shape).expand(len(x), -1, -1, -1)), 2)
        x = x + self.attn(normed, projected=(keys, values))
        return x + self.mlp(self.norm2(x))
