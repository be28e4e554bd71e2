"""EfficientNet and EfficientNet-Lite (Tan & Le 2019, "EfficientNet"; Lite: its authors' repository, 2020).

Inverted residual blocks (Sandler et al. 2018, fig. 4): a 1×1 expansion, a depthwise convolution, a 1×1 projection,
with a shortcut where shapes agree, squeeze-and-excitation (Hu et al. 2018) before the projection, swish. Lite leaves
out squeeze-and-excitation, uses ReLU6 for swish, and keeps the stem, the head and the depth of the first and last
stage unscaled.

Published weights were trained in TensorFlow: BatchNorm's ε is 1e-3, and a strided convolution pads "SAME", which for
an even extent puts the odd pixel at the bottom right; `SameConv2d` does that at run time, so that any extent works.
Pixels: RGB in 0..255, (x - 127) / 128, as in TensorFlow; the ImageNet mean and deviation that the PyTorch port's own
example uses cost accuracy (89 photographs of ImageNet classes cut out on white: lite0 top-1 67 % with them, 80 %
without; lite2 78 % and 84 %). Departure: no stochastic depth (the tower is used frozen).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from chiasm.nn.activations import activation

# One row a stage: blocks, kernel, stride, expansion, output channels (EfficientNet-B0, table 1).
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_DIM = 32
CELL = 32  # pixels of a cell's side: the stride of the coarsest map
_LEVELS = (3, 4, 5)  # stages whose maps a descriptor summarises, beside the last one


@dataclass(frozen=True, kw_only=True, slots=True)
class EfficientNetConfig:
    """A scaled EfficientNet; a Lite one by default.

    Attributes:
        image_size: pixels the weights were trained at.
        width: multiplies channels.
        depth: multiplies blocks a stage.
        hidden_dim: D, channels of the last feature map.
        num_classes: of the classifier.
        squeeze: width of the squeezing layer, as a share of a block's input; None = none (Lite).
        act: activation; Lite's is ReLU6.
        scale_ends: stem and first and last stage are scaled, too; Lite's aren't.
        head: whether the 1×1 head and the classifier are there; ALIGN reads the last stage itself.
        fixed_padding: pad strided convolutions as transformers does, at the bottom right whatever the extent; otherwise
            as "SAME" says, which differs for odd extents.
    """

    image_size: int
    width: float = 1.0
    depth: float = 1.0
    hidden_dim: int = 1280
    num_classes: int = 1000
    squeeze: float | None = None
    act: str = "relu6"
    scale_ends: bool = False
    head: bool = True
    fixed_padding: bool = False

    @property
    def output_dim(self) -> int:
        """Width of a picture's vector."""
        return self.hidden_dim if self.head else _round_channels(_STAGES[-1][4] * self.width)

    @property
    def stem_dim(self) -> int:
        """Channels of the stem."""
        return _round_channels(_STEM_DIM * self.width) if self.scale_ends else _STEM_DIM

    @property
    def grid(self) -> int:
        """Rows of the last feature map."""
        return math.ceil(self.image_size / 32)

    @property
    def pyramid_dims(self) -> tuple[int, int]:
        """Channels of the two maps of `EfficientNet.pyramid`."""
        return _round_channels(_STAGES[4][4] * self.width), _round_channels(_STAGES[6][4] * self.width)

    @property
    def cell_dim(self) -> int:
        """Features of a cell of `EfficientNet.cells`."""
        fine, coarse = self.pyramid_dims
        return 4 * fine + coarse

    @property
    def descriptor_dim(self) -> int:
        """Width of `EfficientNet.descriptor`."""
        return self.hidden_dim + 2 * sum(_round_channels(_STAGES[stage][4] * self.width) for stage in _LEVELS)

    def build(self) -> EfficientNet:
        return EfficientNet(self)


EFFICIENTNET_LITE: dict[str, EfficientNetConfig] = {
    "efficientnet_lite0": EfficientNetConfig(image_size=224),
    "efficientnet_lite1": EfficientNetConfig(image_size=240, depth=1.1),
    "efficientnet_lite2": EfficientNetConfig(image_size=260, width=1.1, depth=1.2),
    "efficientnet_lite3": EfficientNetConfig(image_size=280, width=1.2, depth=1.4),
    "efficientnet_lite4": EfficientNetConfig(image_size=300, width=1.4, depth=1.8),
}


def efficientnet(image: int, width: float, depth: float, hidden: int, **more: Any) -> EfficientNetConfig:
    """A full EfficientNet by its scaling (Tan & Le 2019, §3.3)."""
    full: dict[str, Any] = {"squeeze": 0.25, "act": "silu", "scale_ends": True, **more}
    return EfficientNetConfig(image_size=image, width=width, depth=depth, hidden_dim=hidden, **full)


EFFICIENTNET: dict[str, EfficientNetConfig] = {
    "efficientnet_b0": efficientnet(224, 1.0, 1.0, 1280),
    "efficientnet_b1": efficientnet(240, 1.0, 1.1, 1280),
    "efficientnet_b2": efficientnet(260, 1.1, 1.2, 1408),
    "efficientnet_b3": efficientnet(300, 1.2, 1.4, 1536),
    "efficientnet_b4": efficientnet(380, 1.4, 1.8, 1792),
    "efficientnet_b5": efficientnet(456, 1.6, 2.2, 2048),
    "efficientnet_b6": efficientnet(528, 1.8, 2.6, 2304),
    "efficientnet_b7": efficientnet(600, 2.0, 3.1, 2560),
}


class SameConv2d(nn.Conv2d):
    """A convolution without bias whose output has ⌈extent/stride⌉ positions, padded as TensorFlow's "SAME"."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, fixed: bool = False
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)
        self.fixed = fixed and stride > 1  # the padding that "SAME" means for even extents, whatever the extent

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, h, w) → (B, outputs, ⌈h/stride⌉, ⌈w/stride⌉)."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if self.fixed:
            before, after = kernel // 2 - 1, kernel // 2
            x = F.pad(x, (before, after, before, after))
            return F.conv2d(x, self.weight, None, self.stride, 0, 1, self.groups)
        tall, wide = (max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        if tall == wide and tall % 2 == 0:
            return F.conv2d(x, self.weight, None, self.stride, tall // 2, 1, self.groups)
        x = F.pad(x, (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2))
        return F.conv2d(x, self.weight, None, self.stride, 0, 1, self.groups)


def _unit(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(conv.out_channels, eps=1e-3, momentum=0.01)))


class SqueezeExcite(nn.Module):
    """Weigh channels by what the whole map says: σ(expand(act(reduce(mean)))) (Hu et al. 2018, eq. 3)."""

    def __init__(self, width: int, squeezed: int, act: str) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, width, 1)
        self.act = activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, width, h, w) → (B, width, h, w)."""
        return x * self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class InvertedResidual(nn.Module):
    """Expand, filter each channel alone, weigh channels, project; add the input where shapes agree."""

    def __init__(
        self, inputs: int, outputs: int, config: EfficientNetConfig, *, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        width = inputs * expansion
        depthwise = SameConv2d(width, width, kernel, stride=stride, groups=width, fixed=config.fixed_padding)
        self.expand = _unit(SameConv2d(inputs, width, 1)) if expansion > 1 else None
        self.depthwise = _unit(depthwise)
        squeezed = None if config.squeeze is None else max(1, int(inputs * config.squeeze))
        self.squeeze = None if squeezed is None else SqueezeExcite(width, squeezed, config.act)
        self.project = _unit(SameConv2d(width, outputs, 1))
        self.residual = stride == 1 and inputs == outputs
        self.act = activation(config.act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, h, w) → (B, outputs, ⌈h/stride⌉, ⌈w/stride⌉)."""
        wide = self.act(self.depthwise(x if self.expand is None else self.act(self.expand(x))))
        out = self.project(wide if self.squeeze is None else self.squeeze(wide))
        return out + x if self.residual else out


class EfficientNet(nn.Module):
    """Pixels → a grid of features → their mean → class logits on request."""

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.config = config
        self.act = activation(config.act)
        self.stem = _unit(SameConv2d(3, config.stem_dim, 3, stride=2, fixed=config.fixed_padding))
        self.blocks = nn.ModuleList()
        inputs = config.stem_dim
        self.levels: list[int] = []  # numbers of the blocks that end the stages of `_LEVELS`
        for index, (blocks, kernel, stride, expansion, channels) in enumerate(_STAGES):
            scaled = (
                blocks if index in (0, len(_STAGES) - 1) and not config.scale_ends else math.ceil(blocks * config.depth)
            )
            outputs = _round_channels(channels * config.width)
            for block in range(scaled):
                step = stride if block == 0 else 1
                shape = {"kernel": kernel, "stride": step, "expansion": expansion}
                self.blocks.append(InvertedResidual(inputs, outputs, config, **shape))
                inputs = outputs
            if index in _LEVELS:
                self.levels.append(len(self.blocks) - 1)
        self.head = _unit(SameConv2d(inputs, config.hidden_dim, 1)) if config.head else None
        self.classifier = nn.Linear(config.hidden_dim, config.num_classes) if config.head else None

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """The last feature map.

        Args:
            pixels: (B, 3, h, w), normalised.

        Returns:
            (B, output_dim, ⌈h/32⌉, ⌈w/32⌉); a Lite's in [0, 6].
        """
        x = self.act(self.stem(_channels_last(pixels)))
        for block in self.blocks:
            x = block(x)
        return x if self.head is None else self.act(self.head(x))

    def pyramid(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The last maps of the two coarsest scales, before the head: what is where, for places and counts.

        Args:
            pixels: (B, 3, h, w), normalised.

        Returns:
            (B, fine, ⌈h/16⌉, ⌈w/16⌉) and (B, coarse, ⌈h/32⌉, ⌈w/32⌉), with the config's `pyramid_dims` channels.
        """
        x = fine = self.act(self.stem(_channels_last(pixels)))
        for block in self.blocks:
            after = block(x)
            if after.shape[-1] != x.shape[-1]:
                fine = x
            x = after
        return fine, x

    def cells(self, pixels: torch.Tensor) -> torch.Tensor:
        """Both scales of the pyramid, cell by cell: a 2×2 block of the fine map beside one position of the coarse one.

        Args:
            pixels: (B, 3, h, w), normalised; h and w are multiples of `CELL`.

        Returns:
            (B, h/CELL · w/CELL, cell_dim), in reading order.
        """
        fine, coarse = self.pyramid(pixels)
        fine = rearrange(fine, "b c (y p) (x q) -> b (y x) (p q c)", p=2, q=2)
        return torch.cat((fine, rearrange(coarse, "b c y x -> b (y x) c")), -1)

    def descriptor(self, pixels: torch.Tensor) -> torch.Tensor:
        """What is in a picture, at several depths.

        The mean of the last map, then mean and greatest value of each channel of three earlier ones, whose colours,
        textures and strokes matter more in drawings than in photographs.

        Args:
            pixels: (B, 3, h, w), normalised.

        Returns:
            (B, descriptor_dim); the first D are what `forward` gives.
        """
        assert self.head is not None
        x, maps = self.act(self.stem(_channels_last(pixels))), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.levels:
                maps.append(x)
        earlier = [part for level in maps for part in (level.mean((2, 3)), level.amax((2, 3)))]
        return torch.cat([self.act(self.head(x)).mean((2, 3)), *earlier], 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """One vector a picture, the mean of the feature map: (B, 3, h, w) → (B, D)."""
        return self.features(pixels).mean((2, 3))

    def logits(self, pooled: torch.Tensor) -> torch.Tensor:
        """Class scores of pooled features: (B, D) → (B, num_classes)."""
        assert self.classifier is not None
        return cast(torch.Tensor, self.classifier(pooled))


def _channels_last(pixels: torch.Tensor) -> torch.Tensor:
    """The same pixels, laid out so that depthwise convolutions on CPUs take two thirds of the time."""
    return pixels.contiguous(memory_format=torch.channels_last)


def _round_channels(channels: float) -> int:
    """To a multiple of 8, never losing more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
