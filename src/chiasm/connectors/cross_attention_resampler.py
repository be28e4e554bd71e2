"""One layer of cross-attention from learned queries.

`GridResampler`: Qwen-VL's position-aware adapter (Bai et al. 2023, §2.1): the queries are a grid, and 2D sine–cosine
positions are added to queries and keys, not to values. `LatentAttention`: Kosmos' connector (Huang et al. 2023,
"Language Is Not All You Need", §2.1, as published for Kosmos-2): an affine map, then latents attend to [features;
latents] once, without norms and without a residual.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chiasm.nn.attention import AttentionConfig
from chiasm.nn.positions import resize_grid, sincos_grid


@dataclass(frozen=True, kw_only=True, slots=True)
class GridResamplerConfig:
    """Qwen-VL's resampler.

    Attributes:
        input_dim: width of the features.
        output_dim: D of the queries and the result.
        grid: queries along one side.
        num_heads: H.
        norm_eps: ε of the LayerNorms.
    """

    input_dim: int
    output_dim: int
    grid: int = 16
    num_heads: int = 32
    norm_eps: float = 1e-6

    def visual_tokens(self, patches: int) -> int:
        """Tokens that `patches` features become."""
        return self.grid**2

    def build(self) -> GridResampler:
        return GridResampler(self)


class GridResampler(nn.Module):
    """A grid of features → a smaller grid of tokens."""

    def __init__(self, config: GridResamplerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.output_dim
        self.queries = nn.Parameter(torch.zeros(config.grid**2, width))
        # fixed, but stored in published files: a parameter would be trained by recipes that train the connector
        self.pos_embed: torch.Tensor
        self.register_buffer("pos_embed", sincos_grid(config.grid, width))
        self.kv_proj = nn.Linear(config.input_dim, width, bias=False)
        self.norm_queries = nn.LayerNorm(width, eps=config.norm_eps)
        self.norm_context = nn.LayerNorm(width, eps=config.norm_eps)
        self.attn = AttentionConfig(hidden_dim=width, num_heads=config.num_heads).build()
        self.norm_post = nn.LayerNorm(width, eps=config.norm_eps)
        self.proj = nn.Linear(width, width, bias=False)

    def init_weights(self) -> None:
        """Draw queries and projections as the reference does."""
        nn.init.trunc_normal_(self.queries, std=0.02)
        nn.init.trunc_normal_(self.kv_proj.weight, std=0.02)
        nn.init.normal_(self.proj.weight, std=self.config.output_dim**-0.5)
        self.pos_embed.copy_(sincos_grid(self.config.grid, self.config.output_dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, P, input_dim) features of a square grid → (B, grid², output_dim)."""
        side, grid = round(x.shape[1] ** 0.5), self.config.grid
        places = resize_grid(self.pos_embed, (grid, grid), (side, side)).to(x.dtype)
        x = self.norm_context(self.kv_proj(x))
        queries = (self.norm_queries(self.queries) + self.pos_embed.to(x.dtype)).expand(len(x), -1, -1)
        return self.proj(self.norm_post(self.attn(queries, projected=self.attn.project(x + places, x))))


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentAttentionConfig:
    """Kosmos' connector.

    Attributes:
        input_dim: width of the features.
        output_dim: D of the latents and the result.
        num_latents: visual tokens a picture.
        num_heads: H.
    """

    input_dim: int
    output_dim: int
    num_latents: int = 64
    num_heads: int = 32

    def visual_tokens(self, patches: int) -> int:
        """Tokens that `patches` features become."""
        return self.num_latents

    def build(self) -> LatentAttention:
        return LatentAttention(self)


class LatentAttention(nn.Module):
    """Features → latents by one attention."""

    def __init__(self, config: LatentAttentionConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.input_dim, config.output_dim)
        self.latents = nn.Parameter(torch.zeros(config.num_latents, config.output_dim))
        self.attn = AttentionConfig(hidden_dim=config.output_dim, num_heads=config.num_heads).build()

    def init_weights(self) -> None:
        """Draw the latents as the reference does."""
        nn.init.normal_(self.latents)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, P, input_dim) → (B, N, output_dim)."""
        latents = self.latents.expand(len(x), -1, -1)
        return self.attn(latents, torch.cat((self.dense(x), latents), 1))
