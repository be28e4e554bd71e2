"""Configurations as JSON: what is written reads back the same, and numbers that no model has are refused."""

from __future__ import annotations

import dataclasses

import pytest

from chiasm.core.config import check, from_dict, to_dict
from chiasm.core.errors import ConfigError
from chiasm.core.registry import families
from chiasm.vision.patches import PatchSelection

TOWER = families()["siglip"].tiny()[0].vision


def test_every_familys_sizes_are_in_range_and_read_back_the_same() -> None:
    for family in families().values():
        for config in (family.tiny()[0], *family.presets.values()):
            check(config)
            assert from_dict(type(config), to_dict(config)) == config


@pytest.mark.parametrize("layer", [-2, (-2, -9), ()])
def test_one_number_or_several(layer: int | tuple[int, ...]) -> None:
    reading = PatchSelection(layer=layer)
    assert from_dict(PatchSelection, to_dict(reading)) == reading


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("image_size", 0, "config.image_size is 0, not a whole number from 1 to 8192"),
        ("num_heads", -4, "config.num_heads is -4, not a whole number from 1 to 2147483647"),
        ("num_layers", 10**30, "not a whole number from 1"),
        ("norm_eps", float("nan"), "config.norm_eps is nan, not a number from 0"),
        ("norm_eps", "1", "config.norm_eps is '1', not float"),
        ("act", ["gelu"], "config.act is ['gelu'], not str"),
    ],
)
def test_what_no_model_has_is_named(field: str, value: object, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(dataclasses.replace(TOWER, **{field: value}))
    assert caught.value.code == "config_value" and told in str(caught.value)
