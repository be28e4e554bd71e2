"""Every published size, on the meta device: names, shapes and counts against the reference class built there."""

from __future__ import annotations

import pytest
import torch
import transformers

from chiasm.core.registry import families
from chiasm.weights.layouts import layout_of

# Millions of parameters as open_clip's model profile and the model cards state them.
STATED = {
    "clip_vit_b_32": 151.28, "clip_vit_b_16": 149.62, "clip_vit_l_14": 427.62, "clip_vit_l_14_336": 427.94,
    "clip_rn50": 102.01, "clip_rn101": 119.69, "clip_rn50x4": 178.30, "clip_rn50x16": 290.98, "clip_rn50x64": 623.26,
    "siglip_b_16_224": 203.16, "siglip_b_16_256": 203.20, "siglip_b_16_384": 203.45, "siglip_b_16_512": 203.79,
    "siglip_l_16_256": 652.15, "siglip_l_16_384": 652.48, "siglip_so400m_14_224": 877.36,
    "siglip_so400m_14_384": 877.96,
    "llava_1_5_7b": 7063.43, "llava_next_mistral_7b": 7566.75, "llava_next_vicuna_7b": 7063.43,
}  # fmt: skip
PUBLISHED = [family for family in families().values() if family.name in ("clip", "siglip", "llava", "llava_next")]
PRESETS = {name: config for family in PUBLISHED for name, config in family.presets.items()}
REFERENCES = {
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
}


def on_meta(build):
    with torch.device("meta"):
        return build()


@pytest.mark.parametrize("name", sorted(STATED))
def test_counts_are_the_stated_ones(name) -> None:
    module = on_meta(PRESETS[name].build)
    assert round(sum(p.numel() for p in module.parameters()) / 1e6, 2) == STATED[name]


@pytest.mark.parametrize(
    "name", sorted(name for name, config in PRESETS.items() if layout_of(config).name in REFERENCES)
)
def test_tensors_are_the_reference_class_s(name) -> None:
    config = PRESETS[name]
    layout = layout_of(config)
    module = on_meta(config.build)
    stored = layout.config_to(config)
    kind = stored.pop("model_type")
    reference_config = transformers.AutoConfig.for_model(kind, **stored)
    reference = on_meta(lambda: getattr(transformers, REFERENCES[layout.name])(reference_config))
    assert sum(p.numel() for p in reference.parameters()) == sum(p.numel() for p in module.parameters())
    table = layout.table(config)
    # the reference's own names go through the table's spellings; nothing may be left over on either side
    theirs = {key: tuple(tensor.shape) for key, tensor in reference.state_dict().items()}
    ours = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    steps = table.check(theirs, ours)
    assert {target for step in steps for target in step.targets} == set(ours)
