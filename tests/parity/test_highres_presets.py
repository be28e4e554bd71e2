"""Published sizes of the high-resolution families on the meta device, against the model cards' parameter counts."""

from __future__ import annotations

import pytest
import torch

from chiasm.core.registry import families

# Millions of parameters, as the hub states them of each checkpoint's safetensors files.
CARDS = {
    "qwen2_vl_2b": 2209.0, "qwen2_vl_7b": 8291.4, "qwen2_vl_72b": 73405.6,
    "qwen2_5_vl_3b": 3754.6, "qwen2_5_vl_7b": 8292.2, "qwen2_5_vl_32b": 33452.7, "qwen2_5_vl_72b": 73410.8,
    "internvl_1_5_26b": 25514.2, "internvl2_1b": 938.2, "internvl2_2b": 2205.8, "internvl2_4b": 4146.5,
    "internvl2_8b": 8075.4, "internvl2_26b": 25514.2, "internvl2_40b": 40074.0, "internvl2_76b": 76262.4,
    "internvl2_5_1b": 938.2, "internvl2_5_2b": 2205.8, "internvl2_5_4b": 3713.0, "internvl2_5_8b": 8075.4,
    "internvl2_5_26b": 25514.2, "internvl2_5_38b": 38388.2, "internvl2_5_78b": 78408.3,
    "kimi_vl_a3b": 16407.7,
    "molmo_e_1b": 7210.0, "molmo_7b_o": 7665.0, "molmo_7b_d": 8021.0, "molmo_72b": 73308.0,
    "cogvlm_17b": 17639.7, "cogvlm2_19b": 19503.1,
}  # fmt: skip
PRESETS = {name: config for family in families().values() for name, config in family.presets.items()}


@pytest.mark.parametrize("name", sorted(CARDS))
def test_counts_are_the_cards(name) -> None:
    with torch.device("meta"):
        module = PRESETS[name].build()
    count = sum(parameter.numel() for parameter in module.parameters()) / 1e6
    assert abs(count / CARDS[name] - 1) <= 0.005, (count, CARDS[name])
