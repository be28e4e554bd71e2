"""Published sizes of the high-resolution families on the meta device, against the model cards' parameter counts."""

from __future__ import annotations

import pytest
import torch

from chiasm.core.registry import families

# Exact counts. `index`: half of `total_size` in the published model.safetensors.index.json (bfloat16), as quoted by
# other projects. `listed`: the count that the hub shows of the safetensors files, as tabulated by other projects.
EXACT = {
    "qwen2_vl_2b": 2208985600, "qwen2_vl_7b": 8291375616, "qwen2_vl_72b": 73405560320,  # listed; 7B: index, too
    "qwen2_5_vl_3b": 3754622976,  # listed
    "qwen2_5_vl_7b": 16584333312 // 2, "qwen2_5_vl_32b": 66905436672 // 2,  # index
    "internvl2_8b": 16150730752 // 2,  # index
    "internvl2_5_1b": 938193024, "internvl2_5_2b": 2205754368, "internvl2_5_4b": 3712637952,  # listed
    "internvl2_5_8b": 8075365376, "internvl2_5_26b": 25514186112, "internvl2_5_38b": 38388164992,  # listed
    "internvl2_5_78b": 78408318336,  # listed
    "cogvlm_17b": 17639685376,  # listed
}  # fmt: skip
# Billions as model cards and their tables round them, or as the sizes of the published files come to (InternVL2-4B:
# 4.96 and 3.34 GB of bfloat16; MolmoE: 26.9 GiB of float32): no finer figure was found in public copies.
CARDS = {
    "internvl_1_5_26b": 25.5, "internvl2_1b": 0.9382, "internvl2_2b": 2.2, "internvl2_4b": 4.15, "internvl2_26b": 25.5,
    "internvl2_40b": 40.1, "internvl2_76b": 76.3, "kimi_vl_a3b": 16.4, "molmo_7b_d": 8.02, "molmo_e_1b": 7.22,
}  # fmt: skip
# Billions that no public copy confirmed to three digits: what the published configs come to, whose sizes were
# compared with public copies (Qwen2.5-VL-72B's with its AWQ's, whose MLP is padded).
DERIVED = {"qwen2_5_vl_72b": 73.41, "molmo_7b_o": 7.665, "molmo_72b": 73.31, "cogvlm2_19b": 19.50}
PRESETS = {name: config for family in families().values() for name, config in family.presets.items()}


def count(name: str) -> int:
    with torch.device("meta"):
        module = PRESETS[name].build()
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", sorted(EXACT))
def test_counts_are_the_published_files_to_the_last_parameter(name) -> None:
    assert count(name) == EXACT[name]


@pytest.mark.parametrize("name", sorted(CARDS | DERIVED))
def test_counts_are_the_cards(name) -> None:
    billions = (CARDS | DERIVED)[name]
    assert abs(count(name) / 1e9 / billions - 1) <= 0.005
