"""EfficientNet-Lite: published sizes, shapes, TensorFlow's padding, and agreement with the published port."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from chiasm.vision.efficientnet import EFFICIENTNET_LITE, SameConv2d
from chiasm.weights.layouts.efficientnet import RULES
from chiasm.weights.rules import regex

GOLDEN = Path(__file__).parents[1] / "golden" / "efficientnet_lite0.json"
# Trainable parameters of `efficientnet-lite-pytorch` 0.1.0's models.
PARAMETERS = {0: 4_652_008, 1: 5_416_680, 2: 6_092_072, 3: 8_197_096, 4: 13_006_568}


def ours_to_theirs(name: str) -> str:
    """A parameter's name in the published port, by the table."""
    for rule in RULES:
        if match := regex(rule.patterns("ours")[0]).fullmatch(name):
            return rule.patterns("theirs")[0].format(**match.groupdict())
    raise AssertionError(name)


def fill(state: Mapping[str, torch.Tensor]) -> None:
    """Give tensors values that depend on the published names alone, so that any implementation can be filled alike."""
    for index, (name, tensor) in enumerate(sorted(state.items())):
        if not tensor.is_floating_point():
            continue
        wave = torch.cos(torch.arange(tensor.numel(), dtype=torch.float64) * 0.7 + index).reshape(tensor.shape)
        if name.endswith("running_var"):
            value = 1 + 0.5 * wave
        elif name.endswith("running_mean") or tensor.ndim == 1:
            value = 0.1 * wave + (1.0 if "bn" in name and name.endswith("weight") else 0.0)
        else:
            value = wave * math.sqrt(2 / tensor[0].numel())
        tensor.copy_(value)


@pytest.mark.parametrize("size", range(5))
def test_published_parameter_counts(size: int) -> None:
    with torch.device("meta"):
        model = EFFICIENTNET_LITE[f"efficientnet_lite{size}"].build()
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[size]


def test_every_tensor_has_one_published_name() -> None:
    with torch.device("meta"):
        names = list(EFFICIENTNET_LITE["efficientnet_lite2"].build().state_dict())
    assert len({ours_to_theirs(name) for name in names}) == len(names) == 386


@pytest.mark.parametrize(("height", "width"), [(224, 224), (65, 97), (32, 31)])
def test_shapes_for_any_extent(height: int, width: int) -> None:
    model = EFFICIENTNET_LITE["efficientnet_lite0"].build().eval()
    with torch.no_grad():
        grid = model.features(torch.zeros(2, 3, height, width))
        pooled = model(torch.zeros(2, 3, height, width))
        assert grid.shape == (2, 1280, math.ceil(height / 32), math.ceil(width / 32))
        torch.testing.assert_close(pooled, grid.mean((2, 3)))
        assert model.logits(pooled).shape == (2, 1000)


def test_descriptor_summarises_the_maps_that_end_stages() -> None:
    model = EFFICIENTNET_LITE["efficientnet_lite2"].build().eval()
    pixels, ends = torch.randn(2, 3, 64, 64), []
    hooks = [block.register_forward_hook(lambda *call: ends.append(call[2])) for block in model.blocks]
    with torch.no_grad():
        descriptor, pooled = model.descriptor(pixels), model(pixels)
    for hook in hooks:
        hook.remove()
    assert descriptor.shape == (2, model.config.descriptor_dim) == (2, 1280 + 2 * (88 + 120 + 208))
    torch.testing.assert_close(descriptor[:, :1280], pooled)
    last = {x.shape[1]: x for x in ends[: len(model.blocks)]}  # a stage's last block overwrites the ones before it
    slow = torch.cat(
        [f(last[c]) for c in (88, 120, 208) for f in (lambda x: x.mean((2, 3)), lambda x: x.amax((2, 3)))], 1
    )
    torch.testing.assert_close(descriptor[:, 1280:], slow)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("extent", [6, 7])
def test_same_padding_puts_the_odd_pixel_last(kernel: int, stride: int, extent: int) -> None:
    conv = SameConv2d(2, 3, kernel, stride=stride)
    x = torch.randn(1, 2, extent, extent)
    total = max((math.ceil(extent / stride) - 1) * stride + kernel - extent, 0)
    slow = F.conv2d(F.pad(x, (total // 2, total - total // 2) * 2), conv.weight, stride=stride)
    assert slow.shape[-1] == math.ceil(extent / stride)
    torch.testing.assert_close(conv(x), slow)


def test_agrees_with_the_published_port() -> None:
    """The golden values are those of `efficientnet-lite-pytorch` 0.1.0, filled by `fill` above."""
    golden = json.loads(GOLDEN.read_text())
    model = EFFICIENTNET_LITE["efficientnet_lite0"].build().eval()
    fill({ours_to_theirs(name): tensor for name, tensor in model.state_dict().items()})
    pixels = torch.sin(torch.arange(3 * 70 * 50, dtype=torch.float64) * 0.01).reshape(1, 3, 70, 50).float()
    with torch.no_grad():
        grid = model.features(pixels)
        logits = model.logits(model(pixels))
    torch.testing.assert_close(grid[0, ::160].flatten(), torch.tensor(golden["grid"]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[0, ::50], torch.tensor(golden["logits"]), atol=1e-5, rtol=1e-5)
