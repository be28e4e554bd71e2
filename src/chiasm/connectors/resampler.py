"""Perceiver resampler: any number of features → fixed latents (Alayrac et al. 2022, "Flamingo", §2.1, A.1.1).

In every layer the latents attend to the features and to themselves, then pass an MLP; both residual, both behind a
norm. Features of several frames get a learned time embedding each. OpenFlamingo and IDEFICS use it at the tower's
width; xGen-MM (Xue et al. 2024, §2.1) masks the patches of padding and projects the latents afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chiasm.nn.attention import AttentionConfig, QKNormConfig
from chiasm.nn.masks import EVERYTHING, AttentionMask, real_tokens
from chiasm.nn.mlp import MLPConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ResamplerConfig:
    """A Perceiver resampler.

    Attributes:
        input_dim: D of the features and the latents.
        output_dim: width that the latents are projected to; None = they stay as they are.
        num_latents: visual tokens a picture.
        num_layers, num_heads, head_dim, mlp_dim: L, H, C, M.
        act: activation of the MLPs.
        norm_eps: ε of every LayerNorm.
        max_frames: learned time embeddings; 0 = none, and all frames look alike.
        qk_norm: queries and keys pass a LayerNorm a head (IDEFICS).
    """

    input_dim: int
    output_dim: int | None
    num_latents: int = 64
    num_layers: int = 6
    num_heads: int = 8
    head_dim: int = 64
    mlp_dim: int = 4096
    act: str = "gelu"
    norm_eps: float = 1e-5
    max_frames: int = 0
    qk_norm: bool = False

    def visual_tokens(self, patches: int) -> int:
        """Tokens that `patches` features become."""
        return self.num_latents

    def build(self) -> Resampler:
        return Resampler(self)


class ResamplerBlock(nn.Module):
    """One layer: latents attend to [features; latents], then an MLP."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        width = config.input_dim
        self.norm_context, self.norm1, self.norm2 = (nn.LayerNorm(width, eps=config.norm_eps) for _ in range(3))
        self.attn = AttentionConfig(
            hidden_dim=width,
            num_heads=config.num_heads,
            head_dim=config.head_dim,
            qkv_bias=False,
            out_bias=False,
            qk_norm=QKNormConfig(eps=1e-5, per_head=True, layer_norm=True) if config.qk_norm else None,
        ).build()
        self.mlp = MLPConfig(input_dim=width, hidden_dim=config.mlp_dim, act=config.act, bias=False).build()

    def forward(self, latents: torch.Tensor, x: torch.Tensor, mask: AttentionMask) -> torch.Tensor:
        """(B, N, D) latents, (B, P, D) features → (B, N, D)."""
        own = self.norm1(latents)
        latents = latents + self.attn(own, torch.cat((self.norm_context(x), own), 1), mask=mask)
        return latents + self.mlp(self.norm2(latents))


class Resampler(nn.Module):
    """Features of a picture or of frames → latents."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.input_dim
        self.latents = nn.Parameter(torch.zeros(config.num_latents, width))
        self.frame_embed = nn.Parameter(torch.zeros(config.max_frames, width)) if config.max_frames else None
        self.blocks = nn.ModuleList(ResamplerBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.proj = nn.Linear(width, config.output_dim) if config.output_dim else None

    def init_weights(self) -> None:
        """Draw latents and time embeddings as the references do."""
        nn.init.normal_(self.latents)
        if self.frame_embed is not None:
            nn.init.normal_(self.frame_embed)

    def moments(self, frames: int) -> torch.Tensor:
        """(frames, D) time embeddings; more frames than were learned lie between the learned ones (A.1.1)."""
        assert self.frame_embed is not None
        learned = self.frame_embed
        if frames <= len(learned):
            return learned[:frames]
        line = learned.T[None]  # (1, D, learned)
        return nn.functional.interpolate(line, size=frames, mode="linear", align_corners=True)[0].T.to(learned.dtype)

    def forward(self, x: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """Resample.

        Args:
            x: (B, P, D) features of pictures, or (B, F, P, D) of frames.
            attend: (B, P) bool, False = a patch of padding; None = all count.

        Returns:
            (B, N, output_dim).
        """
        if x.ndim == 4:
            if self.frame_embed is not None:
                x = x + self.moments(x.shape[1])[:, None]
            x = x.flatten(1, 2)
        elif self.frame_embed is not None:
            x = x + self.frame_embed[0]
        mask, attend = EVERYTHING, real_tokens(attend)
        if attend is not None:
            mask = AttentionMask(nn.functional.pad(attend, (0, len(self.latents)), value=True)[:, None, None])
        latents = self.latents.expand(len(x), -1, -1).to(x.dtype)
        for block in self.blocks:
            latents = block(latents, x, mask)
        latents = self.norm(latents)
        return latents if self.proj is None else self.proj(latents)
