"""IDEFICS against transformers: interleaved prompts, logits, gradients, greedy and beam tokens, layouts, sizes."""

from __future__ import annotations

import pytest
import torch
import transformers
from tests.parity.agreement import ATOL, gradients_agree, loaded
from tests.parity.bridging import goes_both_ways, randomised, replies_agree, same_shapes_as_reference
from tests.parity.test_blip2 import picture

from chiasm.fusion.gated_cross_attention import visible_pictures
from chiasm.models import idefics


def talk(*parts, reply: str | None = None) -> list[dict]:
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": picture(part)}
        for part in parts
    ]
    turns = [{"role": "user", "content": content}]
    return turns + ([{"role": "assistant", "content": reply}] if reply else [])


@pytest.fixture(scope="module", params=["float", "vector"])
def pair(request, tmp_path_factory):
    """Reference, our model, its folder."""
    _, processor = idefics.tiny()
    tokenizer = processor.tokenizer
    words = len(tokenizer)
    config = transformers.IdeficsConfig(
        vocab_size=words - 2, additional_vocab_size=2, hidden_size=48, intermediate_size=96, num_hidden_layers=4,
        num_attention_heads=4, cross_layer_interval=2, qk_layer_norms=request.param == "float", use_resampler=True,
        alpha_type=request.param, max_position_embeddings=512, eos_token_id=tokenizer.eos_id,
        bos_token_id=tokenizer.bos_id, pad_token_id=tokenizer.pad_id,
        vision_config={
            "embed_dim": 32, "image_size": 32, "patch_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 64,
        },
        perceiver_config={
            "use_resampler": True, "resampler_n_latents": 4, "resampler_depth": 2, "resampler_n_heads": 2,
            "resampler_head_dim": 8, "qk_layer_norms_perceiver": request.param == "float",
        },
    )  # fmt: skip
    reference = randomised(transformers.IdeficsForVisionText2Text(config))
    reference.requires_grad_(True)
    folder = tmp_path_factory.mktemp(request.param)
    return reference, loaded(reference, processor, folder), folder


def inputs(model, batch) -> dict:
    """Our batch in the reference's form, its picture mask by the published rule."""
    count = len(batch.spans)
    mask = torch.zeros(1, batch.input_ids.shape[1], count, dtype=torch.long)
    seen = visible_pictures(batch.spans, batch.input_ids, model.config.end_id)[0]
    for column, number in enumerate(seen.tolist()):
        if number >= 0:
            mask[0, column, number] = 1
    return {
        "input_ids": batch.input_ids,
        "attention_mask": torch.ones_like(batch.input_ids),
        "pixel_values": batch.pixel_values[None],
        "image_attention_mask": mask,
    }


def test_adjacent_pictures_share_a_fake_token_and_spaces_go(pair) -> None:
    _, model, _ = pair
    tokenizer = model.processor.tokenizer
    fake, slot = (tokenizer.token_to_id(token) for token in (idefics.FAKE, "<image>"))
    ids = model.processor([talk("  so ", 1, 2, " red ")]).input_ids[0].tolist()
    wanted = [*tokenizer.wrapping[0], *tokenizer.encode("so"), fake, slot, fake, slot, fake]
    assert ids[: len(wanted)] == wanted
    assert tokenizer.decode(ids[len(wanted) :]) == "red"


def test_visible_pictures_are_the_published_processors(pair) -> None:
    from transformers.models.idefics.processing_idefics import image_attention_mask_for_packed_input_ids_pt

    _, model, _ = pair
    tokenizer = model.processor.tokenizer

    class Names:
        eos_token_id = tokenizer.eos_id

        @staticmethod
        def convert_tokens_to_ids(token):
            return tokenizer.token_to_id(token)

    batch = model.processor([talk("a", 1, "b", 2, "c"), talk("one", 3, "two", 4, 5, "three")])
    ids = batch.input_ids.clone()
    ids[0, -2] = tokenizer.eos_id  # what stands behind sees nothing
    expected, _ = image_attention_mask_for_packed_input_ids_pt(ids, Names)
    seen = visible_pictures(batch.spans, ids, model.config.end_id)
    first = torch.tensor([0, 2])[:, None]  # theirs counts within a row
    begins = batch.attention_mask & (torch.arange(ids.shape[1]) > 0)
    assert torch.equal((seen - first).clamp(min=-1)[begins], expected[begins])


def test_logits_loss_and_gradients_agree(pair) -> None:
    reference, model, folder = pair
    batch = model.processor(
        [talk("so", 1, "red", 2, 3, "blue is", reply="a car")], add_generation_prompt=False, supervise=True
    )
    model.module.requires_grad_(True)
    reference.zero_grad(), model.module.zero_grad()
    expected = reference(**inputs(model, batch))
    logits = model.module(batch)
    assert (logits - expected.logits).abs().max() <= ATOL
    # the reference's own loss forgets the added words
    for scores in (logits, expected.logits):
        torch.nn.functional.cross_entropy(scores[0, :-1], batch.labels[0, 1:], ignore_index=-100).backward()
    # a gate's gradient is a sum over all features of all tokens
    gradients_agree(reference, model, folder, atol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_tokens_agree(pair, beams) -> None:
    reference, model, _ = pair
    talks = [talk("so", *range(seed, seed + 1 + seed % 4), "what is it?" * (1 + seed % 2)) for seed in range(1, 6)]

    def expected(batch):
        return reference.generate(
            **inputs(model, batch), max_new_tokens=12, do_sample=False, num_beams=beams, early_stopping=False
        )

    replies_agree(model, talks, expected, beams=beams, source=lambda batch: batch.input_ids.shape[1])


def test_layout_goes_both_ways(pair, tmp_path) -> None:
    reference, model, folder = pair
    goes_both_ways(reference, model, folder, tmp_path / "again")


@pytest.mark.parametrize("name", idefics.PRESETS)
def test_presets_are_the_reference_class_s(name) -> None:
    def build(stored):
        stored.pop("model_type")
        return transformers.IdeficsForVisionText2Text(transformers.IdeficsConfig(**stored))

    ours, theirs = same_shapes_as_reference(idefics.PRESETS[name], build)
    assert ours == theirs
