"""Packed linear layers: the same numbers, in any number of rows, and nothing packed that shouldn't be."""

from __future__ import annotations

import pytest
import torch

import chiasm
from chiasm.core.messages import parse_conversation
from chiasm.generation.exactness import company_needed
from chiasm.models.packing import pack
from chiasm.nn.packed import PackedLinear


def test_a_layer_is_its_matrix() -> None:
    weight, bias = torch.randn(48, 33), torch.randn(48)
    layer = PackedLinear(weight, bias)
    torch.testing.assert_close(layer.rounded(), weight, atol=0, rtol=0)
    for rows in (1, 2, 5, 64):
        x = torch.randn(rows, 3, 33)
        torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, weight, bias), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llava", "kimi_vl", "xcomposer", "blip2"])
def test_replies_stay_the_same(family: str) -> None:
    torch.manual_seed(0)
    model = chiasm.new(family, tiny=True)
    asked = [parse_conversation([{"role": "user", "content": text}]) for text in ("what?", "why is it so?", "a")]
    before = model.generate(asked, max_new_tokens=6)
    assert pack(model.module)
    after = model.generate(asked, max_new_tokens=6)
    for one, two in zip(before, after, strict=True):
        assert one.token_ids == two.token_ids and one.logprobs == pytest.approx(two.logprobs, abs=1e-4)
    mixes = family == "kimi_vl"  # experts
    assert (company_needed(model.module, 4) is None) == mixes  # type: ignore[arg-type]


def test_only_float32_models_that_write_are_packed() -> None:
    assert not pack(chiasm.new("clip", tiny=True).module)
    model = chiasm.new("llava", tiny=True)
    assert not pack(model.module.bfloat16())
