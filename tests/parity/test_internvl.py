"""InternVL against transformers: towers of both kinds, two language models, tiles; the authors' layout both ways."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tests.parity.agreement import ATOL, gradients_agree, loaded
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

import chiasm
from chiasm.processing.image_processor import ImageProcessor
from chiasm.weights.layouts import layout_for
from chiasm.weights.layouts.internvl_chat import LAYOUTS

VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8, "layer_scale_init_value": 0.4,
}  # fmt: skip
LARGE = {**VISION, "norm_type": "rms_norm", "use_qk_norm": True, "attention_bias": False}
SMALL = {**VISION, "norm_type": "layer_norm", "use_qk_norm": False, "attention_bias": True}


def picture(seed: int, width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def talk(seed: int, *sizes: tuple[int, int]) -> list[dict]:
    words = ["what", "is", "this", "and", "that", "here", "cat?", "red", "left\n", "2 dogs"]
    rng = np.random.default_rng(seed)
    content: list[dict] = [{"type": "image", "image": picture(seed + i, *size)} for i, size in enumerate(sizes)]
    content.append({"type": "text", "text": " ".join(rng.choice(words, int(rng.integers(1, 9))))})
    return [{"role": "user", "content": content}]


FILM = [{"role": "user", "content": [
    {"type": "video", "video": [picture(90 + i, 70, 40) for i in range(3)], "fps": 1.0},
    {"type": "text", "text": "what happens?"},
]}]  # fmt: skip
TALKS = [talk(1, (60, 30)), talk(2, (31, 95), (200, 40)), talk(3), FILM, talk(5, (33, 33), (40, 41), (100, 98))]


@pytest.fixture(scope="module", params=["qwen2-large", "llama-small"])
def pair(request, tmp_path_factory):
    torch.manual_seed(3)
    template = chiasm.new("internvl")
    tokenizer = template.processor.tokenizer
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "initializer_range": 0.1,
        "eos_token_id": tokenizer.eos_id, "bos_token_id": None, "pad_token_id": None, "tie_word_embeddings": False,
    }  # fmt: skip
    kind, tower = request.param.split("-")
    text = transformers.Qwen2Config(**shape) if kind == "qwen2" else transformers.LlamaConfig(**shape)
    config = transformers.InternVLConfig(
        vision_config=LARGE if tower == "large" else SMALL,
        text_config=text,
        image_token_id=tokenizer.token_to_id("<IMG_CONTEXT>"),
        tie_word_embeddings=False,
    )
    reference = transformers.InternVLForConditionalGeneration(config)
    for parameter in reference.parameters():
        if parameter.ndim <= 1 or parameter.shape[0] == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp(request.param)
    return reference.eval(), loaded(reference, template.processor, folder), folder


def reference_inputs(batch) -> dict:
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long()}
    return inputs | ({} if batch.pixel_values is None else {"pixel_values": batch.pixel_values})


def test_logits_loss_and_gradients_agree(pair) -> None:
    reference, model, folder = pair
    batch = model.processor(TALKS)
    with torch.no_grad():
        expected = reference(**reference_inputs(batch)).logits
        assert ((model.module(batch) - expected)[batch.attention_mask]).abs().max() <= ATOL
    turns = [TALKS[1] + [{"role": "assistant", "content": "a red cat"}]]
    batch = model.processor(turns, add_generation_prompt=False, supervise=True)
    for parameter in model.module.parameters():
        parameter.requires_grad_(True)
    loss_there = reference(**reference_inputs(batch), labels=batch.labels).loss
    logits = model.module(batch)
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], batch.labels[0, 1:], ignore_index=-100)
    assert abs(loss.item() - loss_there.item()) <= ATOL
    loss.backward(), loss_there.backward()
    gradients_agree(reference, model, folder)


def test_greedy_tokens_agree_and_a_batch_equals_its_members(pair) -> None:
    reference, model, _ = pair
    together = model.generate(TALKS, max_new_tokens=10, batch_size=len(TALKS))
    for conversation, reply in zip(TALKS, together, strict=True):
        batch = model.processor([conversation])
        ids = reference.generate(**reference_inputs(batch), max_new_tokens=10, do_sample=False, pad_token_id=0)
        ids = ids[0, batch.input_ids.shape[1] :].tolist()
        ends = model.processor.tokenizer.eos_ids
        expected = ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))]
        assert list(reply.token_ids) == expected
        assert list(model.generate(conversation, max_new_tokens=10)[0].token_ids) == expected


def test_a_film_is_a_picture_a_frame_with_its_number() -> None:
    model = chiasm.new("internvl")
    seen = model.inspect(FILM)
    assert [plan.num_tokens for plan in seen.plans] == [4] * 3  # one tile each, though one picture would get several
    assert "Frame1: <img><image ×4></img>\nFrame2: <img>" in seen.prompt


def test_tiles_equal_the_reference_to_the_bit_on_200_sizes() -> None:
    settings = {
        "image_processor_type": "GotOcr2ImageProcessor", "size": {"height": 28, "width": 28}, "crop_to_patches": True,
        "min_patches": 1, "max_patches": 12,
    }  # fmt: skip
    ours, theirs = ImageProcessor.from_config(settings), GotOcr2ImageProcessorPil(**settings)
    random = np.random.default_rng(5)
    sizes = [(1, 1), (5000, 200), (3840, 2160), (1, 900), (800, 1), (28, 28), (40, 20), (35, 28)]
    sizes += [tuple(np.exp(random.uniform(0, np.log(2000), 2)).astype(int).clip(1)) for _ in range(192)]
    for at, (width, height) in enumerate(sizes):
        width, height = int(width), int(height)
        one = picture(at, width, height)
        wanted = theirs(one, return_tensors="np")
        plan = ours.plan((width, height))
        assert len(plan.crops) == theirs.get_number_of_image_patches(height, width)
        if at % 4 == 0:
            pixels, _ = ours.pixels([one])
            assert np.array_equal(pixels.numpy(), wanted["pixel_values"]), (width, height)


def published_keys(kind: str, large: bool) -> set[str]:
    """Names in the authors' folders, for 1 layer of each part."""
    tower = "vision_model.encoder.layers.{}."
    names = {"vision_model.embeddings." + n for n in ("class_embedding", "position_embedding")}
    names |= {f"vision_model.embeddings.patch_embedding.{p}" for p in ("weight", "bias")}
    for i in range(3):
        one = tower.format(i)
        norms = ["norm1.weight", "norm2.weight"] + ([] if large else ["norm1.bias", "norm2.bias"])
        qkv = ["attn.qkv.weight"] + (["attn.q_norm.weight", "attn.k_norm.weight"] if large else ["attn.qkv.bias"])
        rest = [f"{n}.{p}" for n in ("attn.proj", "mlp.fc1", "mlp.fc2") for p in ("weight", "bias")]
        names |= {one + n for n in (*norms, *qkv, *rest, "ls1", "ls2")}
    names |= {f"mlp1.{n}.{p}" for n in (0, 1, 3) for p in ("weight", "bias")}
    text = "language_model."
    if kind == "internlm2":
        names |= {text + n for n in ("model.tok_embeddings.weight", "model.norm.weight", "output.weight")}
        layer = ["attention.wqkv", "attention.wo", "attention_norm", "ffn_norm"]
        layer += [f"feed_forward.w{n}" for n in (1, 2, 3)]
    else:
        names |= {text + n for n in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")}
        layer = ["input_layernorm", "post_attention_layernorm", "self_attn.o_proj", "mlp.down_proj"]
        if kind == "phi3":
            layer += ["self_attn.qkv_proj", "mlp.gate_up_proj"]
        else:
            layer += [*(f"self_attn.{n}_proj" for n in "qkv"), "mlp.gate_proj", "mlp.up_proj"]
    names |= {f"{text}model.layers.{i}.{n}.weight" for i in range(2) for n in layer}
    if kind == "qwen2":
        names |= {f"{text}model.layers.{i}.self_attn.{n}_proj.bias" for i in range(2) for n in "qkv"}
    return names


@pytest.mark.parametrize("kind", ["internlm2", "qwen2", "llama", "phi3"])
@pytest.mark.parametrize("large", [True, False])
def test_the_authors_layout_both_ways(kind, large, tmp_path) -> None:
    from chiasm.models.model import Model
    from chiasm.weights.load import _writer

    model = chiasm.new("internvl")
    vision = model.config.vision
    if not large:
        vision = replace(vision, rms_norm=False, qkv_bias=True, qk_norm=None)
    language = replace(model.config.language, qkv_bias=kind == "qwen2")
    config = replace(model.config, vision=vision, language=language)
    torch.manual_seed(1)
    module = config.build()
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2
    layout = next(each for each in LAYOUTS if f"internvl_chat_{kind}" in each.model_types)
    assert set(layout.table(config).to_theirs(module.state_dict())) == published_keys(kind, large)
    made = Model(module, model.processor, model.family, config, writer=_writer(layout))
    made.save(tmp_path / "saved")
    again = chiasm.load(tmp_path / "saved")
    assert again.config == config and layout_for(layout.config_to(config)) is layout
    replies = [one.generate(TALKS[1], max_new_tokens=5)[0].token_ids for one in (again, made)]
    assert replies[0] == replies[1]


def test_interleaved_queries_keys_and_values_stand_as_internlm2_says() -> None:
    """wqkv viewed as (key heads, queries + 2, head width): the published code's own rearrangement."""
    from chiasm.weights.rules import Interleaved

    fused = torch.arange(2 * 4 * 3 * 5).view(24, 5).float()  # 2 key heads, 2 queries each, head width 3, D 5
    q, k, v = Interleaved("a", ("q", "k", "v"), 2, 2).forward([fused])
    grouped = fused.view(2, 4, 3, 5)
    assert torch.equal(q.view(2, 2, 3, 5), grouped[:, :2])
    assert torch.equal(k.view(2, 3, 5), grouped[:, 2]) and torch.equal(v.view(2, 3, 5), grouped[:, 3])


def test_the_first_release_s_shuffle_swaps_rows_and_columns() -> None:
    from chiasm.connectors.pixel_shuffle import PixelShuffleConfig

    shape = {"input_dim": 3, "output_dim": 8}
    straight, swapped = PixelShuffleConfig(**shape).build(), PixelShuffleConfig(**shape, swapped=True).build()
    swapped.load_state_dict(straight.state_dict())
    x = torch.randn(2, 36, 3)
    expected = straight(x).view(2, 3, 3, 8).transpose(1, 2).flatten(1, 2)
    assert torch.equal(swapped(x), expected)
