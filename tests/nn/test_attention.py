"""Attention's kernels: gradients in bfloat16."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from chiasm.nn.attention import FEW_KEYS, attended


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("keys", [7, FEW_KEYS + 1])
@pytest.mark.parametrize("masked", ["nothing", "some", "bias"])
def test_gradients_in_bfloat16_are_float32s_rounded(masked, keys, autocast):
    shapes = ((2, 3, 5, 8), (2, 3, keys, 8), (2, 3, keys, 8))
    given = [torch.randn(shape).bfloat16() for shape in shapes]
    allowed = None
    if masked != "nothing":
        allowed = torch.rand(2, 1, 5, keys) < 0.7
        allowed[..., 0] = True
        allowed = allowed if masked == "some" else torch.randn(2, 1, 5, keys).masked_fill(~allowed, -20).bfloat16()
    ours = [x.float() if autocast else x.clone() for x in given]
    exact = [x.double() for x in given]
    for x in (*ours, *exact):
        x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        found = attended(*ours, allowed, scale=0.3)
    wide = allowed.double() if masked == "bias" else allowed
    expected = F.scaled_dot_product_attention(*exact, attn_mask=wide, scale=0.3)
    assert found.dtype == torch.bfloat16 and found.shape == expected.shape
    if keys <= FEW_KEYS:  # the products are float32's, not bfloat16's
        whole = [x.detach().float() for x in ours]
        bias = allowed.float() if masked == "bias" else allowed
        float32 = F.scaled_dot_product_attention(*whole, attn_mask=bias, scale=0.3)
        assert torch.equal(found.detach(), float32.bfloat16())
    weights = torch.randn(found.shape).bfloat16()
    found.backward(weights)
    expected.backward(weights.double())
    for got, right in zip((found, *(x.grad for x in ours)), (expected, *(x.grad for x in exact)), strict=True):
        assert (got.double() - right).norm() < 0.01 * right.norm()  # bfloat16 keeps 8 bits: half of 1/128 at most
