"""CLIP, SigLIP, LLaVA and LLaVA-NeXT against transformers: outputs, loss, gradients, greedy and beam tokens.

Each reference is a random miniature that transformers saves and we load, so that the architecture, the weight
table and the configuration are proved at once.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tests.parity.agreement import ATOL, gradients_agree, loaded

import chiasm
from chiasm.core.batch import Batch
from chiasm.models.model import Model
from chiasm.objectives.contrastive import info_nce, sigmoid_loss
from chiasm.processing.miniature import tiny_tokenizer

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}


def picture(seed: int, width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module", params=["clip", "siglip"])
def dual(request, tmp_path_factory):
    torch.manual_seed(0)
    template = chiasm.new(request.param)
    vocab = len(template.processor.tokenizer)
    if request.param == "clip":
        eos = template.processor.tokenizer.eos_id
        config = transformers.CLIPConfig(
            text_config={
                **TEXT,
                "vocab_size": vocab,
                "eos_token_id": eos,
                "bos_token_id": eos - 1,
                "pad_token_id": eos,
            },
            vision_config=VISION,
            projection_dim=16,
        )
        reference = transformers.CLIPModel(config)
    else:
        config = transformers.SiglipConfig(
            text_config={**TEXT, "vocab_size": vocab, "max_position_embeddings": 16}, vision_config=VISION
        )
        reference = transformers.SiglipModel(config)
        with torch.no_grad():
            reference.logit_scale.fill_(0.7)
            reference.logit_bias.fill_(-0.3)
    for (
        parameter
    ) in reference.parameters():  # the reference draws biases as zero and norms as one: a swap would pass unseen
        if parameter.ndim <= 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, reference.eval(), loaded(reference, template.processor, folder), folder


def dual_inputs(model: Model) -> tuple[Batch, Batch]:
    texts = ["a cat", "two dogs on a boat", "sea", "a fox"]
    return model.processor.images([picture(seed, 40 + seed, 37) for seed in range(4)]), model.processor.texts(texts)


def reference_forward(reference, images: Batch, texts: Batch):
    return reference(input_ids=texts.input_ids, attention_mask=texts.attention_mask, pixel_values=images.pixel_values)


def test_dual_encoders_agree(dual) -> None:
    _, reference, model, _ = dual
    images, texts = dual_inputs(model)
    with torch.no_grad():
        expected = reference_forward(reference, images, texts)
        pictures = model.module.embed_images(images.pixel_values)
        words = model.module.embed_texts(texts.input_ids, texts.attention_mask)
        logits = model.module.logits(pictures, words)
    assert (pictures - expected.image_embeds).abs().max() <= ATOL
    assert (words - expected.text_embeds).abs().max() <= ATOL
    assert (logits - expected.logits_per_image).abs().max() <= ATOL


def test_dual_losses_and_gradients_agree(dual) -> None:
    name, reference, model, folder = dual
    images, texts = dual_inputs(model)
    reference.zero_grad(), model.module.zero_grad()
    for parameter in model.module.parameters():
        parameter.requires_grad_(True)
    expected = reference(
        input_ids=texts.input_ids,
        attention_mask=texts.attention_mask,
        pixel_values=images.pixel_values,
        return_loss=True,
    ).loss
    expected.backward()
    pictures = model.module.embed_images(images.pixel_values)
    words = model.module.embed_texts(texts.input_ids, texts.attention_mask)
    scale = model.module.logit_scale.exp()
    loss = (
        info_nce(pictures, words, scale)
        if name == "clip"
        else sigmoid_loss(pictures, words, scale, model.module.logit_bias)
    )
    loss.backward()
    assert abs(loss.item() - expected.item()) <= ATOL
    gradients_agree(reference, model, folder)


@pytest.fixture(scope="module", params=["llava", "llava_next"])
def generative(request, tmp_path_factory):
    torch.manual_seed(1)
    template = chiasm.new(request.param)
    tokenizer = template.processor.tokenizer
    text = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=2048, eos_token_id=tokenizer.eos_id, pad_token_id=None, bos_token_id=None,
        initializer_range=0.2,
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(**VISION)
    slot = tokenizer.token_to_id("<image>")
    if request.param == "llava":
        config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_id=slot)
        reference = transformers.LlavaForConditionalGeneration(config)
    else:
        pinpoints = [[32, 64], [64, 32], [64, 64]]
        config = transformers.LlavaNextConfig(
            vision_config=vision, text_config=text, image_token_id=slot, image_grid_pinpoints=pinpoints
        )
        reference = transformers.LlavaNextForConditionalGeneration(config)
    for parameter in reference.parameters():
        if parameter.ndim <= 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, reference.eval(), loaded(reference, template.processor, folder), folder


def reference_inputs(name: str, model: Model, batch: Batch) -> dict:
    """Our batch in the reference's form: LLaVA-NeXT wants crops padded per picture, with the pictures' sizes."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long()}
    if batch.pixel_values is None:
        return inputs
    if name == "llava":
        return {**inputs, "pixel_values": batch.pixel_values}
    pieces = batch.pixel_values.split([len(plan.crops) for plan in batch.plans])
    most = max(len(piece) for piece in pieces)
    padded = torch.stack([torch.nn.functional.pad(piece, (0, 0, 0, 0, 0, 0, 0, most - len(piece))) for piece in pieces])
    sizes = torch.tensor([[plan.source[1], plan.source[0]] for plan in batch.plans])
    return {**inputs, "pixel_values": padded, "image_sizes": sizes}


def conversation(seed: int, images: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    words = ["what", "is", "this", "and", "that", "here", "cat?", "red", "left\n", "2 dogs"]
    content: list[dict] = [
        {"type": "image", "image": picture(seed * 10 + i, int(rng.integers(20, 90)), int(rng.integers(20, 90)))}
        for i in range(images)
    ]
    content.insert(
        int(rng.integers(0, images + 1)), {"type": "text", "text": " ".join(rng.choice(words, int(rng.integers(1, 9))))}
    )
    return [{"role": "user", "content": content}]


def test_generative_logits_loss_and_gradients_agree(generative) -> None:
    name, reference, model, folder = generative
    turns = [conversation(3, 2) + [{"role": "assistant", "content": "a red cat"}]]
    batch = model.processor(turns, add_generation_prompt=False, supervise=True)
    reference.zero_grad(), model.module.zero_grad()
    for parameter in model.module.parameters():
        parameter.requires_grad_(True)
    expected = reference(**reference_inputs(name, model, batch), labels=batch.labels)
    logits = model.module(batch)
    assert (logits - expected.logits).abs().max() <= ATOL
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], batch.labels[0, 1:], ignore_index=-100)
    assert abs(loss.item() - expected.loss.item()) <= ATOL
    loss.backward(), expected.loss.backward()
    gradients_agree(reference, model, folder)


@pytest.mark.parametrize("beams", [1, 3])
def test_tokens_agree_and_a_batch_equals_its_members(generative, beams) -> None:
    name, reference, model, _ = generative
    conversations = [conversation(seed, 1 + seed % 4) for seed in range(20 if beams == 1 else 8)]
    batched = model.generate(conversations, max_new_tokens=12, num_beams=beams, batch_size=len(conversations))
    for talk, reply in zip(conversations, batched, strict=True):
        batch = model.processor([talk])
        ids = reference.generate(
            **reference_inputs(name, model, batch),
            max_new_tokens=12,
            do_sample=False,
            num_beams=beams,
            early_stopping=False,
            pad_token_id=0,
        )[0, batch.input_ids.shape[1] :].tolist()
        ends = model.processor.tokenizer.eos_ids
        expected = ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))]
        alone = model.generate([talk], max_new_tokens=12, num_beams=beams)[0]
        assert list(alone.token_ids) == expected
        assert list(reply.token_ids) == expected


def test_left_padded_batch_logits_equal_single(generative) -> None:
    _, _, model, _ = generative
    talks = [conversation(1, 1), conversation(2, 3)]
    with torch.no_grad():
        together = model.module(model.processor(talks))
        for row, talk in enumerate(talks):
            alone = model.module(model.processor([talk]))[0]
            assert (together[row, -len(alone) :] - alone).abs().max() <= ATOL


def test_miniature_tokenizers_carry_the_slot() -> None:
    assert tiny_tokenizer("chatml").token_to_id("<image>") is not None
