"""BLIP's three fine-tuned classes against transformers: outputs, loss, gradients, greedy and beam tokens."""

from __future__ import annotations

import pytest
import torch
import transformers
from tests.parity.agreement import ATOL, gradients_agree, loaded
from tests.parity.disturbed import disturb
from tests.parity.test_families import picture

import chiasm
from chiasm.models.blip import tiny
from chiasm.objectives.captioning import token_loss

KINDS = {
    "caption": (transformers.BlipForConditionalGeneration, {"encoder": False, "joint": False}),
    "vqa": (transformers.BlipForQuestionAnswering, {"joint": False}),
    "retrieval": (transformers.BlipForImageTextRetrieval, {"decoder": False}),
}
WIDTH = 32


@pytest.fixture(scope="module", params=sorted(KINDS))
def pair(request, tmp_path_factory):
    torch.manual_seed(0)
    kind, form = KINDS[request.param]
    _, processor = tiny(**form)
    text = {
        "vocab_size": len(processor.tokenizer), "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 2, "max_position_embeddings": 64, "bos_token_id": len(processor.tokenizer) - 2,
        "pad_token_id": processor.tokenizer.pad_id, "sep_token_id": processor.end_id, "eos_token_id": processor.end_id,
    }  # fmt: skip
    vision = {
        "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    config = transformers.BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=16)
    reference = disturb(kind(config))
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, reference, loaded(reference, processor, folder), folder


def talk(seed: int, words: str = "", reply: str | None = None) -> list[dict]:
    content = [{"type": "image", "image": picture(seed, 40, 31)}, *([{"type": "text", "text": words}] if words else [])]
    turns = [{"role": "user", "content": content}]
    return [*turns, {"role": "assistant", "content": reply}] if reply else turns


def test_capabilities_are_the_checkpoint_s(pair) -> None:
    kind, _, model, _ = pair
    assert (
        set(model.capabilities)
        == {
            "caption": {"generate", "score"},
            "vqa": {"generate", "score"},
            "retrieval": {"embed", "classify", "match", "ground"},
        }[kind]
    )
    missing = model.match if kind != "retrieval" else model.generate
    with pytest.raises(chiasm.core.errors.CapabilityError, match="its blip checkpoint has"):
        missing(*[[picture(1, 9, 9)], ["a"]][: 2 if kind != "retrieval" else 1])


def test_losses_and_gradients_agree(pair) -> None:
    kind, reference, model, folder = pair
    reference.zero_grad(), model.module.zero_grad()
    if kind == "retrieval":
        batch = model.processor.pairs([picture(1, 40, 31), picture(2, 30, 50)], ["a red cat", "two dogs and a ball"])
        given = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "pixel_values": batch.pixel_values,
        }
        expected = reference(**given).itm_score
        states = model.module.encode_images(batch.pixel_values)
        scores = model.module.match_scores(model.module.read_texts(batch.input_ids, batch.attention_mask), states)
        assert (scores - expected).abs().max() <= ATOL
        target = torch.tensor([1, 0])
        cosine = reference(**given, use_itm_head=False).itm_score
        texts = model.module.embed_texts(batch.input_ids, batch.attention_mask)
        ours = model.module.embed_images(batch.pixel_values) @ texts.T
        assert (ours - cosine).abs().max() <= ATOL
        loss = torch.nn.functional.cross_entropy(scores, target) + ours.square().sum()
        theirs = torch.nn.functional.cross_entropy(expected, target) + cosine.square().sum()
    else:
        asked = "what is it?" if kind == "vqa" else "a photo of"
        batch = model.processor([talk(1, asked, "a small red cat")], supervise=True)
        loss = token_loss(model.module(batch), batch.labels)
        if kind == "vqa":
            start = batch.source_length
            answer = batch.input_ids[:, start:]
            labels = answer.masked_fill(batch.labels[:, start:] == -100, -100)
            theirs = reference(
                input_ids=batch.input_ids[:, :start],
                pixel_values=batch.pixel_values,
                decoder_input_ids=answer,
                labels=labels,
            ).loss
        else:
            theirs = reference(pixel_values=batch.pixel_values, input_ids=batch.input_ids, labels=batch.labels).loss
    assert abs(loss.item() - theirs.item()) <= ATOL
    loss.backward(), theirs.backward()
    gradients_agree(reference, model, folder)


@pytest.mark.parametrize("beams", [1, 3])
def test_replies_agree(pair, beams) -> None:
    kind, reference, model, _ = pair
    if kind == "retrieval":
        return
    words = ["what is it?", "how many birds are there", "is the car blue or red?"]
    talks = [talk(seed, words[seed % 3] if kind == "vqa" else words[seed % 3][: 5 * (seed % 2)]) for seed in range(6)]
    replies = model.generate(talks, max_new_tokens=8, num_beams=beams, batch_size=6)
    for one, reply in zip(talks, replies, strict=True):
        batch = model.processor([one])
        ids = batch.input_ids
        # the reference drops a caption's last id (its tokenizer ends it) and puts its start in the first place
        ids = ids[:, :-1] if kind == "vqa" else torch.nn.functional.pad(ids, (0, 1))
        common = {"max_new_tokens": 8, "num_beams": beams, "do_sample": False, "early_stopping": False}
        out = reference.generate(input_ids=ids, pixel_values=batch.pixel_values, **common)[0].tolist()
        out = out[1 if kind == "vqa" else batch.input_ids.shape[1] :]
        ends = model.processor.end_id
        assert list(reply.token_ids) == out[: out.index(ends) if ends in out else len(out)]


def test_a_folder_of_transformers_own_files_loads(pair, tmp_path) -> None:
    _, reference, model, _ = pair
    model.save(tmp_path / "again")
    back = type(reference).from_pretrained(tmp_path / "again")
    for name, tensor in reference.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
