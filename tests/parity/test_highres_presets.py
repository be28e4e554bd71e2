"""Published sizes of the high-resolution families on the meta device, against the model cards' parameter counts."""

from __future__ import annotations

import pytest
import torch

from chiasm.core.registry import families

# Millions of parameters, as the hub states them of each checkpoint's safetensors files.
CARDS = {
    "qwen2_vl_2b": 2209.0, "qwen2_vl_7b": 8291.4, "qwen2_vl_72b": 73405.6,
    "qwen2_5_vl_3b": 3754.6, "qwen2_5_vl_7b": 8292.2, "qwen2_5_vl_32b": 33452.7, "qwen2_5_vl_72b": 73410.8,
}  # fmt: skip
PRESETS = {name: config for family in families().values() for name, config in family.presets.items()}


@pytest.mark.parametrize("name", sorted(CARDS))
def test_counts_are_the_cards(name) -> None:
    with torch.device("meta"):
        module = PRESETS[name].build()
    count = sum(parameter.numel() for parameter in module.parameters()) / 1e6
    assert abs(count / CARDS[name] - 1) <= 0.005, (count, CARDS[name])
