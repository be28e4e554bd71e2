"""Kosmos-2 against transformers: logits, loss, gradients, greedy and beam tokens, layouts, size."""

from __future__ import annotations

import pytest
import torch
import transformers
from tests.parity.agreement import ATOL, gradients_agree, loaded
from tests.parity.bridging import goes_both_ways, randomised, replies_agree, same_shapes_as_reference
from tests.parity.test_blip2 import VISION, talk

from chiasm.models import kosmos


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Reference, our model, its folder."""
    _, processor = kosmos.tiny()
    tokenizer = processor.tokenizer
    text = {
        "vocab_size": len(tokenizer), "embed_dim": 48, "layers": 2, "ffn_dim": 96, "attention_heads": 4,
        "max_position_embeddings": 512, "eos_token_id": tokenizer.eos_id, "bos_token_id": tokenizer.bos_id,
        "pad_token_id": tokenizer.pad_id,
    }  # fmt: skip
    config = transformers.Kosmos2Config(
        text_config=text, vision_config=VISION, latent_query_num=4, image_token_id=tokenizer.token_to_id(kosmos.SLOT)
    )
    reference = randomised(transformers.Kosmos2ForConditionalGeneration(config))
    folder = tmp_path_factory.mktemp("kosmos2")
    return reference, loaded(reference, processor, folder), folder


def inputs(model, batch) -> dict:
    where = torch.zeros_like(batch.input_ids)
    for span in batch.spans:
        where[span.row, span.start : span.stop] = 1
    return {
        "pixel_values": batch.pixel_values,
        "input_ids": batch.input_ids,
        "attention_mask": torch.ones_like(batch.input_ids),
        "image_embeds_position_mask": where,
    }


def test_logits_loss_and_gradients_agree(pair) -> None:
    reference, model, folder = pair
    batch = model.processor([talk(1, "an image of", "a red cat")], add_generation_prompt=False, supervise=True)
    model.module.requires_grad_(True)
    reference.zero_grad(), model.module.zero_grad()
    expected = reference(**inputs(model, batch), labels=batch.labels)
    logits = model.module(batch)
    assert (logits - expected.logits).abs().max() <= ATOL
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], batch.labels[0, 1:], ignore_index=-100)
    assert abs(loss.item() - expected.loss.item()) <= ATOL
    loss.backward(), expected.loss.backward()
    gradients_agree(reference, model, folder)


@pytest.mark.parametrize("beams", [1, 3])
def test_tokens_agree(pair, beams) -> None:
    reference, model, _ = pair
    talks = [talk(seed, "what is it? " * (1 + seed % 3)) for seed in range(4)]

    def expected(batch):
        return reference.generate(
            **inputs(model, batch), max_new_tokens=10, do_sample=False, num_beams=beams, early_stopping=False
        )

    replies_agree(model, talks, expected, beams=beams, steps=10, source=lambda batch: batch.input_ids.shape[1])


def test_layout_goes_both_ways(pair, tmp_path) -> None:
    reference, model, folder = pair
    goes_both_ways(reference, model, folder, tmp_path / "again")


def test_the_preset_is_the_reference_class_s() -> None:
    def build(stored):
        kind = stored.pop("model_type")
        return transformers.Kosmos2ForConditionalGeneration(transformers.AutoConfig.for_model(kind, **stored))

    ours, theirs = same_shapes_as_reference(kosmos.PRESETS["kosmos_2"], build)
    assert ours == theirs
