"""Packed rows: the loss and the gradients of padded ones, fewer positions, every picture encoded once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import chiasm
from chiasm.core.batch import Batch
from chiasm.data.packing import pack
from chiasm.objectives.captioning import NextToken


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def talk(question: str, answer: str, *pictures: int) -> list[dict]:
    parts = [{"type": "image", "image": picture(seed)} for seed in pictures]
    return [
        {"role": "user", "content": [*parts, {"type": "text", "text": question}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


MIXED = [
    talk("what is it?", "a red house by the sea", 1),
    talk("how many birds are there in the picture, and where?", "two", 1),
    talk("hello", "hi there"),
    [*talk("what is it?", "a cat", 2, 3), *talk("and now?", "a dog, I think", 4)],
    talk("is it red?", "no", 1),
    talk("what is it?", "a tree", 5),
]


def texts_only() -> list:
    return [talk("hello " * n, "bye " * (7 - n)) for n in range(1, 7)]


def loss_of(model, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.module.zero_grad()
    for parameter in model.module.parameters():
        parameter.requires_grad_(True)
    loss = NextToken().build()(model.module, batch)["loss"]
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.module.parameters() if p.grad is not None]


@pytest.mark.parametrize("family", ["llava", "llava_next", "nano"])
@pytest.mark.parametrize("capacity", [1, 200, 10_000])
@pytest.mark.parametrize("conversations", [MIXED, texts_only()], ids=["pictures", "texts"])
def test_packed_loss_and_gradients_equal_the_padded_ones(family, capacity, conversations):
    model = chiasm.new(family)
    padded = model.processor(conversations, add_generation_prompt=False, supervise=True)
    packed = pack(padded, capacity)
    (expected, slow), (loss, fast) = loss_of(model, padded), loss_of(model, packed)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)
    for ours, theirs in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_rows_hold_several_texts_and_shared_pictures_once():
    model = chiasm.new("llava")
    padded = model.processor(MIXED, add_generation_prompt=False, supervise=True)
    packed = pack(padded, 10_000)
    assert len(packed.input_ids) < len(padded.input_ids)
    assert len(packed.plans) == len(packed.spans) == len(packed.pixel_values) == 5  # picture 1 stands in three texts
    assert int(packed.attention_mask.sum()) < int(padded.attention_mask.sum())
    assert packed.input_ids.numel() < 0.8 * padded.input_ids.numel()
    assert (packed.labels != -100).sum() == (padded.labels != -100).sum()
    slot = torch.zeros_like(packed.input_ids, dtype=torch.bool)
    for span in packed.spans:
        slot[span.row, span.start : span.stop] = True
    assert (packed.input_ids[slot] == model.config.image_token_id).all()
    assert not (packed.input_ids[~slot] == model.config.image_token_id).any()


def test_capacity_bounds_rows_and_longer_texts_stand_alone():
    model = chiasm.new("llava")
    padded = model.processor(texts_only(), add_generation_prompt=False, supervise=True)
    longest = int(padded.attention_mask.sum(1).max())
    assert pack(padded, longest).input_ids.shape[1] <= longest
    assert len(pack(padded, 5).input_ids) == len(padded.input_ids)


def test_nothing_sees_across():
    model = chiasm.new("llava")
    padded = model.processor(MIXED, add_generation_prompt=False, supervise=True)
    packed = pack(padded, 10_000)
    last = packed.spans[-1]  # a text with a picture of its own
    own = packed.segments == packed.segments[last.row, last.start]
    own &= torch.arange(len(own))[:, None] == last.row
    ids = packed.input_ids.clone()
    ids[~own & (packed.input_ids != model.config.image_token_id)] = 1
    pixels = packed.pixel_values + 1.0
    pixels[-1] = packed.pixel_values[-1]
    before = model.module.hidden(packed)
    after = model.module.hidden(replace(packed, input_ids=ids, pixel_values=pixels))
    torch.testing.assert_close(before[own], after[own], rtol=0, atol=1e-6)
    assert not torch.allclose(before[~own], after[~own], atol=1e-3)


def test_a_text_whose_first_word_is_supervised_shares_nothing():
    model = chiasm.new("llava")
    padded = model.processor(MIXED[:1] * 2, add_generation_prompt=False, supervise=True)
    stop = padded.spans[0].stop
    for row, span in enumerate(padded.spans):
        padded.labels[row, span.stop] = padded.input_ids[row, span.stop]
    assert stop < padded.input_ids.shape[1]
    packed = pack(padded, 10_000)
    assert len(packed.plans) == 2
    torch.testing.assert_close(loss_of(model, packed)[0], loss_of(model, padded)[0], rtol=0, atol=1e-6)
