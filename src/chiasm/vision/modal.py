"""One transformer for pictures, sounds, depth, heat and motion: only the stem differs (Girdhar et al. 2023, §3.3).

Pictures: patches of two frames; a still picture is its own second frame. Planes (a sound's spectrogram, depth,
thermal): patches of one channel, which may overlap, normalised. Motion: six channels over time, eight steps a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.nn.attention import AttentionConfig
from chiasm.nn.bias_block import BiasKeyBlock
from chiasm.nn.blocks import Block, BlockConfig
from chiasm.nn.mlp import MLPConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureStem:
    """Patches of RGB, two frames deep.

    Attributes:
        image_size, patch_size: pixels.
    """

    image_size: int = 224
    patch_size: int = 14

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input."""
        return 3, self.image_size, self.image_size

    @property
    def tokens(self) -> int:
        """P."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaneStem:
    """Patches of one channel.

    Attributes:
        size: (rows, columns).
        patch_size, stride: of the patches; they overlap where the stride is smaller.
    """

    size: tuple[int, int]
    patch_size: int = 16
    stride: int = 16

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input."""
        return 1, *self.size

    @property
    def tokens(self) -> int:
        """P."""
        rows, columns = ((edge - self.patch_size) // self.stride + 1 for edge in self.size)
        return rows * columns


@dataclass(frozen=True, kw_only=True, slots=True)
class MotionStem:
    """Stretches of a recording with several channels.

    Attributes:
        channels: how many.
        length: steps of a recording.
        patch_size: steps a token.
    """

    channels: int = 6
    length: int = 2000
    patch_size: int = 8

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input."""
        return self.channels, self.length

    @property
    def tokens(self) -> int:
        """P."""
        return self.length // self.patch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class ModalConfig:
    """A tower.

    Attributes:
        stem: what it reads.
        hidden_dim, num_layers, num_heads: D, L, H; the MLPs are four times as wide.
    """

    stem: PictureStem | PlaneStem | MotionStem
    hidden_dim: int
    num_layers: int
    num_heads: int

    def block(self) -> BlockConfig:
        return BlockConfig(
            attention=AttentionConfig(hidden_dim=self.hidden_dim, num_heads=self.num_heads),
            mlp=MLPConfig(input_dim=self.hidden_dim, hidden_dim=4 * self.hidden_dim),
            norm_eps=1e-6,
        )

    def build(self) -> ModalTower:
        return ModalTower(self)


class ModalTower(nn.Module):
    """An input of one kind → one vector, the normalised class token."""

    def __init__(self, config: ModalConfig) -> None:
        super().__init__()
        self.config = config
        width, stem = config.hidden_dim, config.stem
        picture = isinstance(stem, PictureStem)
        if isinstance(stem, PictureStem):
            self.proj = nn.Parameter(torch.zeros(width, 3, 2, stem.patch_size, stem.patch_size))
        elif isinstance(stem, PlaneStem):
            self.proj = nn.Parameter(torch.zeros(width, 1, stem.patch_size, stem.patch_size))
        else:
            self.proj = nn.Parameter(torch.zeros(width, stem.channels * stem.patch_size))
        self.norm_stem = None if picture else nn.LayerNorm(width)
        self.cls_token = nn.Parameter(torch.zeros(width))
        self.pos_embed = nn.Parameter(torch.zeros(stem.tokens + 1, width))
        self.norm_pre = nn.LayerNorm(width, eps=1e-6) if picture else None
        kind = Block if picture else BiasKeyBlock
        self.blocks = nn.ModuleList(kind(config.block()) for _ in range(config.num_layers))
        self.norm_post = nn.LayerNorm(width, eps=1e-6)

    def init_weights(self) -> None:
        """Draw stem, positions and token as OpenCLIP does."""
        nn.init.kaiming_uniform_(self.proj, a=5**0.5)
        for table in (self.pos_embed, self.cls_token):
            nn.init.normal_(table, std=self.config.hidden_dim**-0.5)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """(B, …) inputs → (B, P, D), before class token and positions."""
        stem = self.config.stem
        if isinstance(stem, PictureStem):
            if x.dim() == 4:  # the same frame twice: the two halves of the kernel add up
                x = F.conv2d(x, self.proj.sum(2), stride=stem.patch_size)
            else:
                x = F.conv3d(x, self.proj, stride=(2, stem.patch_size, stem.patch_size))
        elif isinstance(stem, PlaneStem):
            x = F.conv2d(x, self.proj, stride=stem.stride)
        else:
            x = x.unfold(-1, stem.patch_size, stem.patch_size).transpose(1, 2).flatten(2)  # (B, P, channels · steps)
            x = F.linear(x, self.proj).transpose(1, 2)
        x = x.flatten(2).transpose(1, 2)
        return x if self.norm_stem is None else self.norm_stem(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Read inputs.

        Args:
            x: (B, *input_shape); pictures may have two frames, (B, 3, 2, h, w).

        Returns:
            (B, D).
        """
        tokens = self.tokens(x)
        x = torch.cat((self.cls_token.expand(len(tokens), 1, -1), tokens), 1) + self.pos_embed
        x = x if self.norm_pre is None else self.norm_pre(x)
        for block in self.blocks:
            x = block(x)
        return self.norm_post(x[:, 0])
