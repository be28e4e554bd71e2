"""ViLT's five heads against transformers: scores, losses, gradients on pictures of several shapes; and its pictures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import transformers
from tests.gallery import gallery
from tests.parity.agreement import ATOL, gradients_agree, loaded
from tests.parity.disturbed import disturb
from tests.parity.test_families import picture

from chiasm.core.errors import PictureError
from chiasm.models.vilt import tiny

HEADS = ("MaskedLM", "QuestionAnswering", "ImageAndTextRetrieval", "ImagesAndTextClassification", "TokenClassification")
TEXTS = ["a red cat", "two dogs and a yellow ball in the picture", "a"]


@pytest.fixture(scope="module", params=HEADS)
def pair(request, tmp_path_factory):
    torch.manual_seed(0)
    _, processor = tiny()
    config = transformers.ViltConfig(
        vocab_size=len(processor.tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, image_size=32, patch_size=8, num_images=2, modality_type_vocab_size=3,
        id2label={0: "no", 1: "yes", 2: "two"}, label2id={"no": 0, "yes": 1, "two": 2},
    )  # fmt: skip
    reference = disturb(getattr(transformers, f"ViltFor{request.param}")(config))
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, reference, loaded(reference, processor, folder), folder


def inputs(model, images: int):
    pictures = [[picture(10 * row + i, 40 + 13 * row, 70 - 9 * i) for i in range(images)] for row in range(3)]
    batch = model.processor.pairs(pictures, TEXTS)
    mask = torch.zeros(len(batch.pixel_values), *batch.pixel_values.shape[2:], dtype=torch.long)
    for row, plan in enumerate(batch.plans):
        width, height = plan.crops[0].size
        mask[row, :height, :width] = 1
    given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long()}
    pixels, mask = batch.pixel_values, mask
    if images > 1:
        pixels, mask = pixels.unflatten(0, (-1, images)), mask.unflatten(0, (-1, images))
    return batch, {**given, "pixel_values": pixels, "pixel_mask": mask}


def test_scores_losses_and_gradients_agree(pair) -> None:
    head, reference, model, folder = pair
    batch, given = inputs(model, 2 if head == "ImagesAndTextClassification" else 1)
    reference.zero_grad(), model.module.zero_grad()
    torch.manual_seed(0)
    scores = model.module(batch)
    if head == "ImageAndTextRetrieval":
        expected = reference(**given).logits[:, 0]
        loss, theirs = scores.square().mean(), expected.square().mean()
    else:
        labels = {
            "MaskedLM": batch.input_ids.masked_fill(~batch.attention_mask, -100),
            "QuestionAnswering": torch.rand(3, 3),
            "ImagesAndTextClassification": torch.tensor([0, 2, 1]),
            "TokenClassification": (batch.input_ids % 3).masked_fill(~batch.attention_mask, -100),
        }[head]
        out = reference(**given, labels=labels)
        expected, theirs = out.logits, out.loss
        if head == "QuestionAnswering":
            loss = F.binary_cross_entropy_with_logits(scores, labels) * labels.shape[1]
        else:
            loss = F.cross_entropy(scores.flatten(0, -2), labels.flatten())
    difference = (scores - expected).abs()
    if head in ("MaskedLM", "TokenClassification"):  # what stands at padding is nobody's business
        difference = difference[batch.attention_mask]
    assert difference.max() <= ATOL
    assert abs(loss.item() - theirs.item()) <= ATOL
    loss.backward(), theirs.backward()
    gradients_agree(reference, model, folder)


def test_answers_are_the_likeliest_and_do_not_depend_on_the_batch(pair) -> None:
    head, reference, model, _ = pair
    if head not in ("QuestionAnswering", "ImagesAndTextClassification"):
        return
    images = 2 if head == "ImagesAndTextClassification" else 1
    talks = [
        [{"role": "user", "content": [*({"type": "image", "image": picture(10 * row + i, 40 + 13 * row, 70 - 9 * i)}
                                        for i in range(images)), {"type": "text", "text": text}]}]
        for row, text in enumerate(TEXTS)
    ]  # fmt: skip
    _, given = inputs(model, images)
    torch.manual_seed(0)
    with torch.no_grad():
        expected = reference(**given).logits.argmax(-1)
    replies = model.generate(talks)
    assert [reply.text for reply in replies] == [("no", "yes", "two")[number] for number in expected]
    for talk, reply in zip(talks, replies, strict=True):
        alone = model.generate(talk)[0]
        assert alone.text == reply.text and abs(alone.logprobs[0] - reply.logprobs[0]) <= 1e-5
        assert model.score(talk, [reply.text])[0].total == pytest.approx(reply.logprobs[0], abs=1e-5)
    assert model.stream(talks[0]).__next__() == replies[0].text


def test_a_folder_of_transformers_own_files_loads(pair, tmp_path) -> None:
    _, reference, model, _ = pair
    model.save(tmp_path / "again")
    back = type(reference).from_pretrained(tmp_path / "again")
    for name, tensor in reference.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


def test_pictures_agree_with_the_reference_s() -> None:
    from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

    from chiasm.processing.padded import PaddedImageProcessor

    theirs = ViltImageProcessorPil(size={"shortest_edge": 64})
    ours = PaddedImageProcessor.from_config(
        {"image_processor_type": "ViltImageProcessor", "size": {"shortest_edge": 64}}
    )
    assert PaddedImageProcessor.from_config(ours.to_config()) == ours
    seen = []
    for name, image in gallery().items():
        try:
            pixels, plans = ours.pixels([image])
        except PictureError as error:
            assert error.code == "picture_too_thin", name
            continue
        expected = theirs(ours.read(image), return_tensors="pt")
        assert torch.equal(pixels, expected["pixel_values"]), name
        seen.append(image)
    assert len(seen) > 20
    together, plans = ours.pixels(seen[:6])
    expected = theirs([ours.read(image) for image in seen[:6]], return_tensors="pt")
    assert torch.equal(together, expected["pixel_values"])
    for plan, mask in zip(plans, expected["pixel_mask"], strict=True):
        assert (plan.crops[0].size[1], plan.crops[0].size[0]) == (int(mask[:, 0].sum()), int(mask[0].sum()))
