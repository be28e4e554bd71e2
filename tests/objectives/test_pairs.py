"""Objectives of pairs: what they add to the losses."""

import math

import pytest
import torch

import chiasm
from chiasm.core.batch import Batch
from chiasm.objectives.contrastive import info_nce, sigmoid_loss
from chiasm.objectives.pairs import InfoNCE, PairwiseSigmoid


@pytest.fixture(scope="module")
def pairs():
    model = chiasm.new("clip")
    texts = model.processor.texts(["a cat", "a dog", "a cat"])
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return model.module, Batch(input_ids=texts.input_ids, attention_mask=texts.attention_mask, pixel_values=pixels)


def test_it_is_the_loss_of_the_embeddings(pairs):
    module, batch = pairs
    images = module.embed_images(batch.pixel_values)
    texts = module.embed_texts(batch.input_ids, batch.attention_mask)
    plain = info_nce(images, texts, module.logit_scale.exp())
    torch.testing.assert_close(InfoNCE().build()(module, batch)["loss"], plain)
    # rows with the same words have the same similarities: sharing their targets changes nothing
    same = torch.tensor([[True, False, True], [False, True, False], [True, False, True]])
    torch.testing.assert_close(info_nce(images, texts, module.logit_scale.exp(), same=same), plain)


def test_pictures_with_the_same_words_belong_together():
    model = chiasm.new("siglip")
    texts = model.processor.texts(["a cat", "a dog", "a cat"])
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch, module = Batch(input_ids=texts.input_ids, pixel_values=pixels), model.module
    images, words = module.embed_images(pixels), module.embed_texts(texts.input_ids)
    same = torch.tensor([[True, False, True], [False, True, False], [True, False, True]])
    scale, bias = module.logit_scale.exp(), module.logit_bias
    for alike, wanted in ((True, same), (False, None)):
        loss = PairwiseSigmoid(alike=alike).build()(module, batch)["loss"]
        torch.testing.assert_close(loss, sigmoid_loss(images, words, scale, bias, same=wanted))


def test_the_scale_stays_in_its_range(pairs):
    module, _ = pairs
    before = module.logit_scale.item()
    with torch.no_grad():
        module.logit_scale.fill_(9.0)
    PairwiseSigmoid().build().after_step(module, 1)
    assert module.logit_scale.item() == 9.0
    InfoNCE(most_scale=50).build().after_step(module, 1)
    assert module.logit_scale.item() == pytest.approx(math.log(50))
    with torch.no_grad():
        module.logit_scale.fill_(before)
