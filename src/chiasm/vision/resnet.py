"""CLIP's modified ResNet (Radford et al. 2021, §2.4).

Three stem convolutions and an average pool; average pools before every stride, in the residual path and the
shortcut alike (anti-aliasing, Zhang 2019); and attention pooling whose query is the mean of the grid.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.nn.attention import AttentionConfig

EXPANSION = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ModifiedResNetConfig:
    """A bottleneck ResNet.

    Attributes:
        image_size: pixels, a multiple of 32.
        layers: bottlenecks in each of the four stages.
        width: channels of the first stage before expansion.
        num_heads: of the attention pool.
        output_dim: width of the pooled vector (the joint dimension: there is no other projection).
    """

    image_size: int
    layers: tuple[int, int, int, int]
    width: int
    num_heads: int
    output_dim: int

    @property
    def hidden_dim(self) -> int:
        """Channels of the last feature map."""
        return self.width * 8 * EXPANSION

    @property
    def grid(self) -> int:
        """Rows of the last feature map."""
        return self.image_size // 32

    def build(self) -> ModifiedResNet:
        return ModifiedResNet(self)


def _unit(inputs: int, outputs: int, kernel: int, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)


class Stem(nn.Module):
    """Three 3×3 convolutions, the first with stride 2, then a 2×2 average pool."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _unit(3, width // 2, 3, stride=2)
        self.conv2, self.bn2 = _unit(width // 2, width // 2, 3)
        self.conv3, self.bn3 = _unit(width // 2, width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) → (B, width, h/4, w/4)."""
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(norm(conv(x)), inplace=True)
        return F.avg_pool2d(x, 2)


class Bottleneck(nn.Module):
    """1×1, 3×3, (average pool), 1×1 around a shortcut; every convolution has stride 1."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1, self.bn1 = _unit(inputs, width, 1)
        self.conv2, self.bn2 = _unit(width, width, 3)
        self.conv3, self.bn3 = _unit(width, width * EXPANSION, 1)
        self.downsample: nn.Module | None = None
        if stride > 1 or inputs != width * EXPANSION:
            conv, norm = _unit(inputs, width * EXPANSION, 1)
            self.downsample = nn.Sequential(OrderedDict(conv=conv, bn=norm))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, h, w) → (B, 4·width, h/stride, w/stride)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        if self.stride > 1:
            out, x = F.avg_pool2d(out, self.stride), F.avg_pool2d(x, self.stride)
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)), inplace=True)


class MeanQueryPool(nn.Module):
    """Multi-head attention whose only query is the mean of the feature map."""

    def __init__(self, config: ModifiedResNetConfig) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(config.grid**2 + 1, config.hidden_dim))
        shape = AttentionConfig(hidden_dim=config.hidden_dim, num_heads=config.num_heads, output_dim=config.output_dim)
        self.attn = shape.build()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, D, h, w) → (B, output_dim)."""
        x = x.flatten(2).transpose(1, 2)  # (B, P, D)
        x = torch.cat((x.mean(1, keepdim=True), x), 1) + self.pos_embed
        return self.attn(x[:, :1], x)[:, 0]


class ModifiedResNet(nn.Module):
    """Pixels → four stages → one vector in the joint space."""

    def __init__(self, config: ModifiedResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config.width)
        self.stages = nn.ModuleList()
        inputs = config.width
        for index, depth in enumerate(config.layers):
            width = config.width * 2**index
            stage = nn.ModuleList()
            for block in range(depth):
                stage.append(Bottleneck(inputs, width, stride=2 if index > 0 and block == 0 else 1))
                inputs = width * EXPANSION
            self.stages.append(stage)
        self.pool = MeanQueryPool(config)

    def init_weights(self) -> None:
        """Draw the pool's positions as the reference does."""
        nn.init.normal_(self.pool.pos_embed, std=self.config.hidden_dim**-0.5)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) → the last feature map (B, D, h/32, w/32)."""
        x = self.stem(pixels)
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                x = block(x)
        return x

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """One vector a picture.

        Args:
            pixels: (B, 3, h, w), normalised.

        Returns:
            (B, output_dim).
        """
        return self.pool(self.features(pixels))
