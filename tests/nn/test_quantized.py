"""Quantized layers beside plain products with the numbers that they round to."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.nn.rounding import plain_int8
from torch import nn

from chiasm.nn.attention import AttentionConfig
from chiasm.nn.blocks import BlockConfig
from chiasm.nn.mlp import GatedMLPConfig
from chiasm.nn.quantized import GROUP, Int4Linear, Int8Linear, QuantizedLinear, int4_codes, int4_numbers, int8_codes
from chiasm.nn.quantizing import eight_bits, four_bits, quantize_layers

KINDS = (Int8Linear, Int4Linear)


def matrix(rows: int = 96, columns: int = 64) -> torch.Tensor:
    return (
        torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, rows)[:, None]
    )


def test_codes_are_the_nearest_in_a_plain_loop() -> None:
    weight = matrix()
    codes, scales = int8_codes(weight)
    for row in range(0, 96, 31):
        step = float(weight[row].abs().max()) / 127
        assert all(abs(int(c) - float(w) / step) <= 0.501 for c, w in zip(codes[row], weight[row], strict=True))
        assert float(scales[row]) == pytest.approx(step)
    codes, scales = int4_codes(weight)
    for row, group in ((0, 0), (50, 1)):
        stretch = slice(group * GROUP, (group + 1) * GROUP)
        scale, zero = scales[group, row].tolist()
        spread = float(weight[row, stretch].max() - weight[row, stretch].min())
        assert scale == pytest.approx(spread / 15, rel=0.05)  # fitted, and in bfloat16
        for code, value in zip(codes[row, stretch].tolist(), weight[row, stretch].tolist(), strict=True):
            assert 0 <= code <= 15 and abs((code - 8) * scale + zero - value) <= 0.6 * scale


@pytest.mark.parametrize("kind", KINDS)
def test_product_equals_the_rounded_matrix(kind: type[QuantizedLinear]) -> None:
    torch.manual_seed(0)
    weight, bias, x = matrix(), torch.linspace(-1, 1, 96), torch.randn(2, 5, 64)
    layer = kind(weight, bias)
    expected = F.linear(x, layer.rounded(), bias)
    if isinstance(layer, Int8Linear):
        # sums of whole numbers are exact: nothing is off but the inputs, each by at most half a step
        torch.testing.assert_close(layer(x), plain_int8(layer, x), atol=1e-5 * float(expected.abs().max()), rtol=0)
        step = x.abs().amax(-1, keepdim=True) / layer.levels
        assert ((layer(x) - expected).abs() <= 0.5001 * step * layer.rounded().abs().sum(1)).all()
    else:
        torch.testing.assert_close(layer(x), expected, atol=0.012 * float(expected.abs().max()), rtol=0)
    codes = int8_codes(weight) if kind is Int8Linear else int4_codes(weight)
    if kind is Int8Linear:
        again = codes[0].float() * codes[1][:, None]
    else:
        scale, zero = (codes[1][..., at].float().t().repeat_interleave(GROUP, 1) for at in (0, 1))
        again = (codes[0] - 8) * scale + zero
    torch.testing.assert_close(layer.rounded(), again, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_kernel_the_product_is_exact(kind: type[QuantizedLinear], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chiasm.nn.quantized._pack_int8", lambda codes, scales: None)
    monkeypatch.setattr("chiasm.nn.quantized.fits_int4", lambda weight: False)
    weight, x = matrix(), torch.randn(3, 64)
    layer = kind(weight, None)
    assert not layer.fast
    torch.testing.assert_close(layer(x), F.linear(x, layer.rounded()), atol=1e-5, rtol=0)
    torch.testing.assert_close(layer.rounded(), kind(weight, None).rounded())


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_neighbours(kind: type[QuantizedLinear]) -> None:
    layer, x = kind(matrix(), None), torch.randn(7, 64)
    loud = torch.cat((x[:1], 1000 * x[1:]))
    torch.testing.assert_close(layer(loud)[:1], layer(x[:1]), atol=1e-6, rtol=1e-6)
    assert not layer(torch.zeros(1, 64)).any()


@pytest.mark.parametrize("quantizer", [eight_bits, four_bits])
@pytest.mark.parametrize("context", [False, True])
def test_joined_block_equals_its_parts(quantizer, context: bool) -> None:
    torch.manual_seed(0)
    attention = AttentionConfig(hidden_dim=64, num_heads=4, num_kv_heads=2, qkv_bias=True)
    block = BlockConfig(attention=attention, mlp=GatedMLPConfig(input_dim=64, hidden_dim=96), norm_eps=1e-5).build()
    x = torch.randn(2, 6, 64)
    keep = slice(0, 1) if context else None
    expected = block(x, keep=keep)
    rounded = {
        name: quantizer(part.weight, None).rounded() for name, part in block.named_modules() if type(part) is nn.Linear
    }
    assert quantize_layers(block, quantizer) == 4  # q, k and v; o; gate and up; down
    assert not any(isinstance(part, nn.Linear) for part in block.modules())
    assert block.attn.qkv_proj.out_features == 64 + 2 * 32
    torch.testing.assert_close(block.attn.qkv_proj.rounded()[:64], rounded["attn.q_proj"])
    loss = 0.03 if quantizer is eight_bits else 0.3
    torch.testing.assert_close(block(x, keep=keep), expected, atol=loss, rtol=0)


def test_scales_are_fitted_to_their_groups() -> None:
    weight = matrix()
    groups = weight.unflatten(1, (-1, GROUP))
    low = groups.amin(-1, keepdim=True)
    step = (groups.amax(-1, keepdim=True) - low) / 15
    plain = ((groups - low) / step).round() * step + low
    fitted = int4_numbers(*int4_codes(weight)).unflatten(1, (-1, GROUP))
    assert (fitted - groups).square().mean() < 0.98 * (plain - groups).square().mean()
    assert torch.equal(int4_numbers(*int4_codes(torch.full((16, 64), 0.5))), torch.full((16, 64), 0.5))


def test_an_update_of_weights_on_a_grid_of_four_bits_is_not_lost() -> None:
    source = torch.Generator().manual_seed(1)
    base = int4_numbers(*int4_codes(torch.randn(192, 128, generator=source)))
    update = 0.005 * torch.randn(192, 4, generator=source) @ torch.randn(4, 128, generator=source)
    codes, scales = int4_codes(base + update)
    lost = (int4_numbers(codes, scales) - base - update).norm() / update.norm()
    layer = Int4Linear(base + update)
    kept = (layer.rounded() - base - update).norm() / update.norm()
    assert lost > 0.9 and kept < 0.5 and 1 <= len(layer.right) <= 8
    x = torch.randn(5, 128, generator=source)
    torch.testing.assert_close(layer(x), x @ layer.rounded().t(), atol=0.2, rtol=0)
    assert Int4Linear(matrix()).right.numel() == 0  # noise of rows that differ in size is noise


def test_small_matrices_and_named_ones_stay() -> None:
    class Reads(nn.Module):
        unquantized = ("up",)

        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.thin = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3)

    module = Reads()
    assert quantize_layers(module, four_bits) == 1
    assert isinstance(module.down, Int4Linear) and type(module.up) is nn.Linear and type(module.thin) is nn.Linear
    assert isinstance(four_bits(matrix(40, 50), None), Int8Linear)  # 50 numbers aren't cut into groups of 32
