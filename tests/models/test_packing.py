"""Packed linear layers: the same numbers, in any number of rows, and nothing packed that shouldn't be."""

from __future__ import annotations

import pytest
import torch

import chiasm
from chiasm.core.messages import parse_conversation
from chiasm.generation.exactness import company_needed
from chiasm.models.packing import pack
from chiasm.nn.packed import PackedLinear
from chiasm.nn.storage import narrow_type


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_is_its_matrix(dtype: torch.dtype) -> None:
    if dtype != torch.float32 and narrow_type() != dtype:
        pytest.skip("the processor has no bfloat16 instructions, and bfloat16 isn't packed there")
    weight, bias = torch.randn(48, 33).to(dtype), torch.randn(48).to(dtype)
    layer = PackedLinear(weight, bias)
    assert layer.nbytes == weight.nbytes
    torch.testing.assert_close(layer.rounded(), weight.float(), atol=0, rtol=0)
    close = 1e-5 if dtype == torch.float32 else 0.02  # eight bits a number
    for rows in (1, 2, 5, 64):
        x = torch.randn(rows, 3, 33).to(dtype)
        expected = torch.nn.functional.linear(x.float(), weight.float(), bias.float()).to(dtype)
        torch.testing.assert_close(layer(x), expected, atol=close, rtol=close)


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


def test_only_models_that_write_are_packed_in_types_that_have_kernels() -> None:
    assert not pack(chiasm.new("clip", tiny=True).module)
    assert not pack(chiasm.new("llava", tiny=True).module.half())
    assert pack(chiasm.new("llava", tiny=True).module.bfloat16()) == (narrow_type() == torch.bfloat16)
