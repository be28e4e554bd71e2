"""InstructBLIP over LLaMA and over T5 against transformers: logits, loss, gradients, tokens, layouts, sizes."""

from __future__ import annotations

import pytest
import torch
import transformers
from tests.parity.agreement import ATOL, gradients_agree, loaded
from tests.parity.bridging import goes_both_ways, randomised, replies_agree, same_shapes_as_reference
from tests.parity.test_blip2 import QFORMER, VISION, talk

from chiasm.core.errors import PromptError
from chiasm.models import instructblip


@pytest.fixture(scope="module", params=["llama", "t5"])
def pair(request, tmp_path_factory):
    """Kind, reference, our model, its folder."""
    _, processor = instructblip.tiny()
    tokenizer = processor.tokenizer
    ids = {"eos_token_id": tokenizer.eos_id, "bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
    if request.param == "llama":
        text = transformers.LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512, **ids,
        )  # fmt: skip
    else:
        text = transformers.T5Config(
            vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
            feed_forward_proj="gated-gelu", decoder_start_token_id=tokenizer.pad_id, **ids,
        )  # fmt: skip
    qformer = {**QFORMER, "vocab_size": len(processor.instructions), "max_position_embeddings": 64}
    config = transformers.InstructBlipConfig(
        vision_config=VISION, qformer_config=qformer, text_config=text.to_dict(), num_query_tokens=4,
        image_token_index=tokenizer.token_to_id("<image>"),
    )  # fmt: skip
    reference = randomised(transformers.InstructBlipForConditionalGeneration(config))
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, reference, loaded(reference, processor, folder), folder


def inputs(batch) -> dict:
    return {
        "pixel_values": batch.pixel_values,
        "qformer_input_ids": batch.instruction_ids,
        "qformer_attention_mask": batch.instruction_mask.long(),
    }


def test_logits_loss_and_gradients_agree(pair) -> None:
    kind, reference, model, folder = pair
    question = "what is the color of the car?"
    batch = model.processor([talk(1, question, "a red one")], add_generation_prompt=False, supervise=True)
    assert torch.equal(batch.instruction_ids, model.processor([talk(1, question)]).instruction_ids)
    model.module.requires_grad_(True)
    reference.zero_grad(), model.module.zero_grad()
    logits = model.module(batch)
    if kind == "llama":
        expected = reference(**inputs(batch), input_ids=batch.input_ids, labels=batch.labels)
        assert (logits - expected.logits).abs().max() <= ATOL
    else:
        reply = batch.labels != -100
        expected = reference(
            **inputs(batch), input_ids=batch.input_ids[~reply][None], labels=batch.input_ids[reply][None]
        )
        assert (logits[:, reply[0].nonzero()[:, 0] - 1] - expected.logits).abs().max() <= ATOL
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], batch.labels[0, 1:], ignore_index=-100)
    assert abs(loss.item() - expected.loss.item()) <= ATOL
    loss.backward(), expected.loss.backward()
    gradients_agree(reference, model, folder)


@pytest.mark.parametrize("beams", [1, 3])
def test_tokens_agree(pair, beams) -> None:
    kind, reference, model, _ = pair
    talks = [talk(seed, "what is it? " * (1 + seed % 3)) for seed in range(5)]

    def expected(batch):
        return reference.generate(
            **inputs(batch), input_ids=batch.input_ids, max_new_tokens=12, do_sample=False, num_beams=beams,
            early_stopping=False,
        )  # fmt: skip

    def source(batch):
        return 1 if kind == "t5" else batch.input_ids.shape[1]

    replies_agree(model, talks, expected, beams=beams, source=source)


def test_the_instruction_decides_what_is_taken_from_the_picture(pair) -> None:
    _, _, model, _ = pair
    first, second = model.processor([talk(1, "what color?")]), model.processor([talk(1, "how many?")])
    first.instruction_ids, first.instruction_mask = first.instruction_ids[:, :4], first.instruction_mask[:, :4]
    with torch.no_grad():
        taken = [model.module.embed(batch)[:, :4] for batch in (first, second)]
    assert (taken[0] - taken[1]).abs().max() > 1e-3


def test_a_long_instruction_is_refused(pair) -> None:
    with pytest.raises(PromptError, match="connector takes 64"):
        pair[2].processor([talk(1, "what is it? " * 40)])


def test_layout_goes_both_ways(pair, tmp_path) -> None:
    _, reference, model, folder = pair
    goes_both_ways(reference, model, folder, tmp_path / "again")


@pytest.mark.parametrize("name", instructblip.PRESETS)
def test_presets_are_the_reference_class_s(name) -> None:
    def build(stored):
        kind = stored.pop("model_type")
        return transformers.InstructBlipForConditionalGeneration(transformers.AutoConfig.for_model(kind, **stored))

    config = instructblip.PRESETS[name]
    ours, theirs = same_shapes_as_reference(config, build)
    untied = config.language.vocab_size * config.language.hidden_dim if "t5" in name else 0
    assert ours in (theirs, theirs + untied)
