"""Decoders that compute some positions of their last layer alone, beside all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from chiasm.language.decoder import Decoder, DecoderConfig
from chiasm.nn.attention import QKNormConfig
from chiasm.nn.position_bias import AlibiConfig
from chiasm.nn.positions import XPosConfig
from chiasm.nn.quantizing import eight_bits, quantize_layers

PLAIN = DecoderConfig(
    vocab_size=32,
    hidden_dim=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    mlp_dim=48,
    context_length=64,
    norm_eps=1e-5,
)
KINDS = {
    "rotary": PLAIN,
    "xpos": replace(PLAIN, rotary=XPosConfig()),
    "alibi": replace(PLAIN, rotary=None, positions=AlibiConfig(), num_kv_heads=4),
    "head norms": replace(PLAIN, qk_norm=QKNormConfig(per_head=True)),
    "parallel": replace(PLAIN, parallel=True),
}


def decoder(kind: str) -> Decoder:
    torch.manual_seed(0)
    return KINDS[kind].build().eval()


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_kept_positions_are_those_of_the_whole(kind: str, joined: bool) -> None:
    language = decoder(kind)
    if joined:
        quantize_layers(language, eight_bits)
    embeds = torch.randn(3, 9, 32)
    attend = torch.ones(3, 9, dtype=torch.bool)
    attend[1, :4] = False
    for given in (None, attend):
        whole = language(embeds, attend=given)
        for keep in (slice(8, 9), slice(2, 5), torch.tensor([8, 6, 7])):
            wanted = whole[:, keep] if isinstance(keep, slice) else whole[torch.arange(3), keep][:, None]
            found = language(embeds, attend=given, keep=keep)
            torch.testing.assert_close(found, wanted, atol=0.03 if joined else 1e-5, rtol=0)


@torch.inference_mode()
def test_kept_positions_leave_the_whole_prompt_in_the_cache() -> None:
    language, embeds = decoder("rotary"), torch.randn(2, 9, 32)
    whole, short = language.new_cache(2, 12), language.new_cache(2, 12)
    for part in (slice(0, 5), slice(5, 9)):
        expected = language(embeds[:, part], cache=whole)
        found = language(embeds[:, part], cache=short, keep=torch.tensor([3, 2]))
        torch.testing.assert_close(found[:, 0], expected[torch.arange(2), torch.tensor([3, 2])], atol=1e-6, rtol=0)
    assert short.length == whole.length == 9
    torch.testing.assert_close(short.keys[..., :9, :], whole.keys[..., :9, :], atol=1e-6, rtol=0)
    torch.testing.assert_close(short.values[..., :9, :], whole.values[..., :9, :], atol=1e-6, rtol=0)


@torch.inference_mode()
def test_the_last_layer_reads_only_what_is_kept() -> None:
    language, seen = decoder("rotary"), []
    for block in language.blocks:
        block.mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    language(torch.randn(1, 9, 32), keep=slice(8, 9))
    assert seen == [9, 1]
