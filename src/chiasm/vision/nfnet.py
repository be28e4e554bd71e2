"""Residual networks without normalisation: NF-ResNet (Brock et al. 2021a, "Characterizing signal propagation") and
NFNet-F (Brock et al. 2021b, "High-Performance Large-Scale Image Recognition Without Normalization").

Weights are standardised, scaled by 1/√fan-in and a learned gain before every convolution. A block adds α·f(x/β) to its
input, β being the standard deviation that the signal must have there (2021a, §3.1). NFNet-F (2021b, §4): a stem of four
3×3 convolutions, groups of 128 channels, a second grouped convolution, squeeze-and-excitation times 2, a learned scalar
that starts at 0, and GELU scaled to unit variance. No classifier: this is a tower, read as a grid of features.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.nn.activations import activation

ALPHA = 0.2  # what a block adds, times this
EPS = 1e-5
SQUEEZE_GAIN = 2.0
# 1 / the standard deviation of act(x) for x ~ N(0, 1)
GAMMA = {"relu": 1.7139588594436646, "gelu": 1.7015043497085571, "silu": 1.7881293296813965}


@dataclass(frozen=True, kw_only=True, slots=True)
class NFNetConfig:
    """A network without norms.

    Attributes:
        image_size: pixels of a side; any multiple of 32 is taken.
        depths, channels: blocks and width of the four stages.
        stem_dim: channels behind the stem.
        deep_stem: four 3×3 convolutions; else one 7×7 and a pooling.
        bottleneck: width of a block's inner convolutions as a share of its output.
        group_size: channels of a group in them; None = one group.
        extra_conv: a second inner convolution.
        squeeze: inner share of squeeze-and-excitation; None = none.
        skip_init: a learned scalar before each addition.
        same_padding: padding that keeps the size divided by the stride, as TensorFlow pads.
        gamma_in_act: activations are scaled to unit variance themselves; else the weights carry the factor.
        act: activation name.
    """

    image_size: int
    depths: tuple[int, int, int, int]
    channels: tuple[int, int, int, int]
    stem_dim: int
    deep_stem: bool
    bottleneck: float
    group_size: int | None = None
    extra_conv: bool = False
    squeeze: float | None = None
    skip_init: bool = False
    same_padding: bool = False
    gamma_in_act: bool = False
    act: str = "relu"

    @property
    def width(self) -> int:
        """Channels of the features."""
        return self.channels[-1]

    @property
    def grid(self) -> int:
        """Features along one side."""
        return self.image_size // 32

    def build(self) -> NFNet:
        return NFNet(self)


def nfnet_f6(image_size: int) -> NFNetConfig:
    """NFNet-F6 as DeepMind trained it, without its last convolution and classifier."""
    return NFNetConfig(
        image_size=image_size,
        depths=(7, 14, 42, 21),
        channels=(256, 512, 1536, 1536),
        stem_dim=128,
        deep_stem=True,
        bottleneck=0.5,
        group_size=128,
        extra_conv=True,
        squeeze=0.5,
        skip_init=True,
        same_padding=True,
        gamma_in_act=True,
        act="gelu",
    )


def nf_resnet50(image_size: int) -> NFNetConfig:
    """NF-ResNet-50."""
    return NFNetConfig(
        image_size=image_size,
        depths=(3, 4, 6, 3),
        channels=(256, 512, 1024, 2048),
        stem_dim=64,
        deep_stem=False,
        bottleneck=0.25,
    )


class StandardizedConv(nn.Conv2d):
    """A convolution whose weights have, for each output, mean 0 and variance gain²/fan-in."""

    def __init__(
        self, config: NFNetConfig, inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        padding = 0 if config.same_padding else (size - 1) // 2
        super().__init__(inputs, outputs, size, stride=stride, padding=padding, groups=groups)
        self.same = config.same_padding and size > 1
        gamma = 1.0 if config.gamma_in_act else GAMMA[config.act]
        self.factor = gamma * (inputs // groups * size**2) ** -0.5
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) → (B, outputs, h′, w′)."""
        if self.same:
            x = _pad_same(x, self.kernel_size[0], self.stride[0])
        flat = self.weight.flatten(1)
        variance, mean = torch.var_mean(flat, 1, keepdim=True, correction=0)
        weight = (flat - mean) * (variance + EPS).rsqrt() * (self.gain.flatten(1) * self.factor)
        return F.conv2d(x, weight.view_as(self.weight), self.bias, self.stride, self.padding, 1, self.groups)


def _pad_same(x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    pads = [max((-(-length // stride) - 1) * stride + size - length, 0) for length in x.shape[-2:]]
    return F.pad(x, (pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2))


class ScaledActivation(nn.Module):
    """An activation, scaled to unit variance where the configuration says so."""

    def __init__(self, config: NFNetConfig) -> None:
        super().__init__()
        self.act = activation(config.act)
        self.gamma = GAMMA[config.act] if config.gamma_in_act else 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return self.act(x) * self.gamma if self.gamma != 1.0 else self.act(x)


class SqueezeExcite(nn.Module):
    """Channels weighted by what the whole picture says (Hu et al. 2018, §3)."""

    def __init__(self, channels: int, share: float) -> None:
        super().__init__()
        inner = int(channels * share + 4) // 8 * 8
        self.fc1, self.fc2 = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) → the same shape."""
        pooled = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(pooled))))


class NFBlock(nn.Module):
    """shortcut(x) + α·f(act(x)·β)."""

    def __init__(self, config: NFNetConfig, inputs: int, outputs: int, stride: int, beta: float) -> None:
        super().__init__()
        self.beta, self.stride = beta, stride
        inner = int(outputs * config.bottleneck)
        groups = 1 if config.group_size is None else max(1, inner // config.group_size)
        changes = inputs != outputs or stride != 1
        self.shortcut = StandardizedConv(config, inputs, outputs, 1) if changes else None
        self.act = ScaledActivation(config)
        self.conv1 = StandardizedConv(config, inputs, inner, 1)
        self.conv2 = StandardizedConv(config, inner, inner, 3, stride=stride, groups=groups)
        self.conv2b = StandardizedConv(config, inner, inner, 3, groups=groups) if config.extra_conv else None
        self.conv3 = StandardizedConv(config, inner, outputs, 1)
        self.squeeze = None if config.squeeze is None else SqueezeExcite(outputs, config.squeeze)
        self.skip_gain = nn.Parameter(torch.zeros(())) if config.skip_init else None

    def init_weights(self) -> None:
        """A block adds nothing at first (2021a, §3.2)."""
        if self.skip_gain is None:
            nn.init.zeros_(self.conv3.gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, h, w) → (B, outputs, h/stride, w/stride)."""
        out = self.act(x) * self.beta
        if self.shortcut is not None:
            pooled = F.avg_pool2d(out, 2, 2, ceil_mode=True, count_include_pad=False) if self.stride > 1 else out
            x = self.shortcut(pooled)
        out = self.conv2(self.act(self.conv1(out)))
        if self.conv2b is not None:
            out = self.conv2b(self.act(out))
        out = self.conv3(self.act(out))
        if self.squeeze is not None:
            out = SQUEEZE_GAIN * self.squeeze(out)
        if self.skip_gain is not None:
            out = out * self.skip_gain
        return x + ALPHA * out


class NFNet(nn.Module):
    """Pixels → a grid of features."""

    def __init__(self, config: NFNetConfig) -> None:
        super().__init__()
        self.config = config
        self.act = ScaledActivation(config)
        if config.deep_stem:
            widths = (3, config.stem_dim // 8, config.stem_dim // 4, config.stem_dim // 2, config.stem_dim)
            strides = (2, 1, 1, 2)
            convs = [
                StandardizedConv(config, inputs, outputs, 3, stride=stride)
                for (inputs, outputs), stride in zip(pairwise(widths), strides, strict=True)
            ]
        else:
            convs = [StandardizedConv(config, 3, config.stem_dim, 7, stride=2)]
        self.stem = nn.ModuleList(convs)
        stages, width = [], config.stem_dim
        variance = 1.0
        for stage, (depth, outputs) in enumerate(zip(config.depths, config.channels, strict=True)):
            blocks = []
            for index in range(depth):
                stride = 2 if index == 0 and stage > 0 else 1
                blocks.append(NFBlock(config, width, outputs, stride, variance**-0.5))
                variance = (1.0 if index == 0 else variance) + ALPHA**2
                width = outputs
            stages.append(nn.ModuleList(blocks))
        self.stages = nn.ModuleList(stages)

    def init_weights(self) -> None:
        """Draw convolutions with the variance that standardisation then fixes."""
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="linear")
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) pixels → (B, width, h/32, w/32), activated."""
        x = pixels
        for index, conv in enumerate(self.stem):
            x = conv(self.act(x) if index else x)
        if not self.config.deep_stem:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                x = block(x)
        return self.act(x)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) pixels → (B, width), the mean feature."""
        return self.features(pixels).mean((2, 3))
