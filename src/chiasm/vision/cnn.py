"""VGG (Simonyan & Zisserman 2015, configuration E) and ResNet (He et al. 2016), as torchvision builds them.

VGG ends at its second fully connected layer ("fc7"), ResNet at the mean of its last map; neither has a classifier.
ResNet's stride lies in the 3×3 convolution. Departure: no dropout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class VggConfig:
    """A VGG.

    Attributes:
        image_size: pixels of a side.
        stages: (convolutions, channels) each; every stage halves the map.
        grid: rows and columns that the last map is averaged to.
        hidden_dim: D of both fully connected layers.
    """

    image_size: int = 224
    stages: tuple[tuple[int, int], ...] = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
    grid: int = 7
    hidden_dim: int = 4096

    @property
    def output_dim(self) -> int:
        """Width of a picture's vector."""
        return self.hidden_dim

    def build(self) -> Vgg:
        return Vgg(self)


class Vgg(nn.Module):
    """Pixels → one vector."""

    def __init__(self, config: VggConfig) -> None:
        super().__init__()
        self.config = config
        parts: list[nn.Module] = []
        inputs = 3
        for count, channels in config.stages:
            for _ in range(count):
                parts += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
                inputs = channels
            parts.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*parts)
        self.fc6 = nn.Linear(inputs * config.grid**2, config.hidden_dim)
        self.fc7 = nn.Linear(config.hidden_dim, config.hidden_dim)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) → (B, D), at least 0."""
        x = F.adaptive_avg_pool2d(self.features(pixels), self.config.grid).flatten(1)
        return F.relu(self.fc7(F.relu(self.fc6(x))))


@dataclass(frozen=True, kw_only=True, slots=True)
class ResNetConfig:
    """A ResNet of bottleneck blocks.

    Attributes:
        image_size: pixels of a side.
        layers: blocks of each of the four stages.
        width: channels of the stem.
    """

    image_size: int = 224
    layers: tuple[int, int, int, int] = (3, 8, 36, 3)
    width: int = 64

    @property
    def output_dim(self) -> int:
        """Width of a picture's vector."""
        return 32 * self.width

    def build(self) -> ResNet:
        return ResNet(self)


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions around a shortcut; the last is four times as wide."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride > 1 or inputs != outputs
            else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, h, w) → (B, 4·width, h/stride, w/stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Pixels → one vector."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1, self.bn1 = nn.Conv2d(3, config.width, 7, 2, 3, bias=False), nn.BatchNorm2d(config.width)
        self.stages = nn.ModuleList()
        inputs = config.width
        for stage, count in enumerate(config.layers):
            width = config.width * 2**stage
            blocks: list[nn.Module] = []
            for block in range(count):
                blocks.append(Bottleneck(inputs, width, 2 if stage and not block else 1))
                inputs = 4 * width
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) → (B, D)."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(pixels))), 3, 2, 1)
        for stage in self.stages:
            x = stage(x)
        return x.mean((2, 3))
