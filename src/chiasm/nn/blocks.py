"""Transformer blocks: attention and MLP around a residual stream, normalised before (or after) each.

Pre-norm: x + f(norm(x)) (Xiong et al. 2020, fig. 1b); post-norm: norm(x + f(x)) (Vaswani et al. 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chiasm.nn.attention import AttentionConfig, Rotary, kept
from chiasm.nn.cache import AnyCache, JointStep
from chiasm.nn.masks import EVERYTHING, AttentionMask
from chiasm.nn.mla import LatentAttentionConfig
from chiasm.nn.mlp import GatedMLPConfig, MLPConfig
from chiasm.nn.moe import MoEConfig
from chiasm.nn.norms import RMSNorm


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockConfig:
    """One transformer layer.

    Attributes:
        attention, mlp: its two sublayers.
        norm_eps: ε of both norms.
        rms_norm: RMSNorm instead of LayerNorm.
        norm_bias: whether a LayerNorm has a bias.
        layer_scale: start of a learned factor on each sublayer's output (Touvron et al. 2021, CaiT, §2); None = none.
    """

    attention: AttentionConfig | LatentAttentionConfig
    mlp: MLPConfig | GatedMLPConfig | MoEConfig
    norm_eps: float
    rms_norm: bool = False
    norm_bias: bool = True
    layer_scale: float | None = None

    def norm(self) -> nn.Module:
        """A norm as this block's own."""
        if self.rms_norm:
            return RMSNorm(self.attention.hidden_dim, eps=self.norm_eps)
        return nn.LayerNorm(self.attention.hidden_dim, eps=self.norm_eps, bias=self.norm_bias)

    def build(self) -> Block:
        return Block(self)


class Block(nn.Module):
    """Pre-norm layer."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.norm1 = config.norm()
        self.attn = config.attention.build()
        self.norm2 = config.norm()
        self.mlp = config.mlp.build()
        self.scale1 = self.scale2 = None
        if config.layer_scale is not None:
            width, start = config.attention.hidden_dim, config.layer_scale
            self.scale1, self.scale2 = (nn.Parameter(torch.full((width,), start)) for _ in range(2))

    def forward(
        self,
        x: torch.Tensor,
        *,
        mask: AttentionMask = EVERYTHING,
        rotary: Rotary | None = None,
        cache: AnyCache | JointStep | None = None,
        layer: int = 0,
        keep: slice | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One layer.

        Args:
            x: (B, T, D).
            mask, rotary, cache, layer: see `Attention.forward`.
            keep: compute only these positions of the result (they still attend to all T, as `mask` says of them, and
                turn as the first two of four tables of `rotary` say); a tensor (B,) names one a row.

        Returns:
            (B, T, D), or (B, kept, D).
        """
        more = {} if keep is None else {"keep": keep}  # only this attention knows of it
        attended = self.attn(self.norm1(x), mask=mask, rotary=rotary, cache=cache, layer=layer, **more)
        x = kept(x, keep)
        if self.scale1 is None or self.scale2 is None:
            x = x + attended
            return x + self.mlp(self.norm2(x))
        x = x + self.scale1 * attended
        return x + self.scale2 * self.mlp(self.norm2(x))


@dataclass(frozen=True, kw_only=True, slots=True)
class SublayerNormBlockConfig(BlockConfig):
    """A layer that normalises what its sublayers give, not what they take."""

    def build(self) -> SublayerNormBlock:  # type: ignore[override]
        return SublayerNormBlock(self)


class SublayerNormBlock(nn.Module):
    """x + norm(f(x)): EVA2-CLIP-E's layers, OLMo 2's (OLMo 2 2025, §3.2)."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.attn = config.attention.build()
        self.norm1 = config.norm()
        self.mlp = config.mlp.build()
        self.norm2 = config.norm()

    def forward(
        self,
        x: torch.Tensor,
        *,
        mask: AttentionMask = EVERYTHING,
        rotary: Rotary | None = None,
        cache: AnyCache | None = None,
        layer: int = 0,
    ) -> torch.Tensor:
        """One layer; arguments as for `Block.forward`, (B, T, D) → (B, T, D)."""
        x = x + self.norm1(self.attn(x, mask=mask, rotary=rotary, cache=cache, layer=layer))
        return x + self.norm2(self.mlp(x))


class ParallelBlock(nn.Module):
    """x + attention(norm(x)) + mlp(norm(x)): one norm, both sublayers on it (Chowdhery et al. 2022, §2)."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.norm = config.norm()
        self.attn = config.attention.build()
        self.mlp = config.mlp.build()

    def forward(
        self,
        x: torch.Tensor,
        *,
        mask: AttentionMask = EVERYTHING,
        rotary: Rotary | None = None,
        cache: AnyCache | None = None,
        layer: int = 0,
    ) -> torch.Tensor:
        """One layer; arguments as for `Block.forward`, (B, T, D) → (B, T, D)."""
        normed = self.norm(x)
        return x + self.attn(normed, mask=mask, rotary=rotary, cache=cache, layer=layer) + self.mlp(normed)


class PostNormBlock(nn.Module):
    """Post-norm layer, as in BERT."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.attn = config.attention.build()
        self.norm1 = config.norm()
        self.mlp = config.mlp.build()
        self.norm2 = config.norm()

    def forward(self, x: torch.Tensor, *, mask: AttentionMask = EVERYTHING) -> torch.Tensor:
        """(B, T, D) → (B, T, D)."""
        x = self.norm1(x + self.attn(x, mask=mask))
        return self.norm2(x + self.mlp(x))
