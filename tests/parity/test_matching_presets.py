"""Published sizes of the matching and fusing families on the meta device, against reference classes and papers."""

from __future__ import annotations

import pytest
import transformers
from tests.parity.test_presets import on_meta

from chiasm.core.errors import ConfigError
from chiasm.core.registry import families
from chiasm.weights.layouts import layout_of

FAMILIES = ("blip", "vilt", "albef", "align")
PRESETS = {name: config for family in FAMILIES for name, config in families()[family].presets.items()}


def held_by_transformers(config) -> bool:
    try:
        stored = layout_of(config).config_to(config)
    except ConfigError:
        return False
    return hasattr(transformers, (stored.get("architectures") or ["-"])[0])


@pytest.mark.parametrize("name", sorted(name for name, config in PRESETS.items() if held_by_transformers(config)))
def test_tensors_are_the_reference_class_s(name) -> None:
    config = PRESETS[name]
    layout, module = layout_of(config), on_meta(config.build)
    stored = layout.config_to(config)
    architecture = stored["architectures"][0]
    reference_config = transformers.AutoConfig.for_model(stored.pop("model_type"), **stored)
    reference = on_meta(lambda: getattr(transformers, architecture)(reference_config))
    assert sum(p.numel() for p in reference.parameters()) == sum(p.numel() for p in module.parameters())
    theirs = {key: tuple(tensor.shape) for key, tensor in reference.state_dict().items()}
    ours = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    steps = layout.table(config).check(theirs, ours)
    assert {target for step in steps for target in step.targets} == set(ours)


def millions(*modules) -> float:
    return round(sum(p.numel() for module in modules for p in module.parameters()) / 1e6, 1)


def test_albef_s_towers_are_as_large_as_its_paper_says() -> None:
    """123.7 million the BERT, 85.8 the ViT (§4.1)."""
    module = on_meta(PRESETS["albef_b"].build)
    assert millions(module.vision) == 85.8
    assert millions(module.language, module.word_head) == 123.7


# OpenCLIP's own profile of its models; its attention masks and the like are no parameters.
COCA = {"coca_vit_b_32": 253.56, "coca_vit_l_14": 638.45}


@pytest.mark.parametrize("name", sorted(COCA))
def test_coca_s_counts_are_openclip_s(name) -> None:
    module = on_meta(families()["coca"].presets[name].build)
    assert round(sum(p.numel() for p in module.parameters()) / 1e6, 2) == COCA[name]
