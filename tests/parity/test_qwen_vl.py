"""Qwen2-VL and Qwen2.5-VL against transformers: logits, loss, gradients, greedy tokens, pictures and video mixed."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tests.parity.agreement import ATOL, gradients_agree, loaded
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

import chiasm
from chiasm.core.errors import ChiasmError
from chiasm.processing.native_tilers import SmartResize
from chiasm.processing.packed_processor import PackedImageProcessor
from chiasm.processing.video import Frames

ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 2, 2]}
TEXT = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_parameters": ROPE,
    "initializer_range": 0.2,
}  # fmt: skip


def picture(seed: int, width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def film(seed: int, frames: int, width: int, height: int, fps: float = 2.0) -> dict:
    return {"type": "video", "video": [picture(seed + i, width, height) for i in range(frames)], "fps": fps}


def talk(seed: int, *parts: dict) -> list[dict]:
    words = ["what", "is", "this", "and", "that", "here", "cat?", "red", "left\n", "2 dogs"]
    rng = np.random.default_rng(seed)
    content = [*parts, {"type": "text", "text": " ".join(rng.choice(words, int(rng.integers(1, 9))))}]
    return [{"role": "user", "content": content}]


def image(seed: int, width: int, height: int) -> dict:
    return {"type": "image", "image": picture(seed, width, height)}


TALKS = [
    talk(1, image(1, 40, 30)),
    talk(2, image(2, 90, 21), image(3, 8, 60)),
    talk(3, film(10, 4, 30, 44)),
    talk(4, image(4, 33, 33), film(20, 5, 50, 20, fps=3.0), image(5, 70, 64)),
    talk(5),
    talk(6, film(30, 2, 16, 16, fps=0.5), film(40, 7, 25, 40, fps=1.0)),
]


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl"])
def pair(request, tmp_path_factory):
    torch.manual_seed(2)
    template = chiasm.new(request.param)
    tokenizer = template.processor.tokenizer
    ids = {
        "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
        "video_token_id": tokenizer.token_to_id("<|video_pad|>"),
    }
    text = {**TEXT, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_id, "bos_token_id": None}
    vision = {"depth": 3, "num_heads": 2, "patch_size": 4}
    if request.param == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 48, "mlp_ratio": 2}
        config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **ids)
        reference = transformers.Qwen2VLForConditionalGeneration(config)
    else:
        vision |= {
            "hidden_size": 32, "intermediate_size": 60, "window_size": 16, "out_hidden_size": 48,
            "fullatt_block_indexes": [1], "tokens_per_second": 2,
        }  # fmt: skip
        config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
        reference = transformers.Qwen2_5_VLForConditionalGeneration(config)
    for parameter in reference.parameters():
        if parameter.ndim <= 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp(request.param)
    model = loaded(reference.eval(), template.processor, folder)
    # transformers 5 goes on behind a video's rows and columns; the published code goes on behind its last moment
    model.module.config = replace(model.module.config, past_time=False)
    return request.param, reference, model, folder


def reference_inputs(name: str, model, batch) -> dict:
    """Our batch in the reference's form: pictures and videos apart, with their grids."""
    merge = model.config.vision.merge
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long()}
    inputs["mm_token_type_ids"] = (batch.input_ids == model.config.image_token_id).int() + 2 * (
        batch.input_ids == model.config.video_token_id
    ).int()
    start, pixels, grids, steps = 0, {False: [], True: []}, {False: [], True: []}, []
    for plan in batch.plans:
        stop = start + plan.num_tokens * merge**2
        pixels[plan.is_video].append(batch.pixel_values[start:stop])
        grids[plan.is_video].append([plan.steps, plan.tokens[0] * merge, plan.tokens[1] * merge])
        steps += [plan.step_seconds] if plan.is_video else []
        start = stop
    for video, key in ((False, "image"), (True, "video")):
        if grids[video]:
            inputs["pixel_values_videos" if video else "pixel_values"] = torch.cat(pixels[video])
            inputs[f"{key}_grid_thw"] = torch.tensor(grids[video])
    if steps and name == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = torch.tensor(steps, dtype=torch.float64)
    return inputs


def test_logits_of_a_mixed_batch_agree(pair) -> None:
    name, reference, model, _ = pair
    batch = model.processor(TALKS)
    reference.model.rope_deltas = None
    with torch.no_grad():
        expected = reference(**reference_inputs(name, model, batch)).logits
        logits = model.module(batch)
        exact = copy.deepcopy(model.module).double()(batch)
    assert batch.attention_mask.sum() < batch.attention_mask.numel()
    # logits of 6 in float32 are themselves 1e-5 away from the same weights in float64, the reference's as ours
    ours, theirs, apart = (
        (one - other)[batch.attention_mask].abs().max()
        for one, other in ((logits, exact), (expected, exact), (logits, expected))
    )
    assert ours <= 1.25 * theirs and theirs <= 1.5 * ATOL and apart <= 1.5 * ATOL


def test_loss_and_gradients_agree(pair) -> None:
    name, reference, model, folder = pair
    turns = [TALKS[3] + [{"role": "assistant", "content": "a red cat"}]]
    batch = model.processor(turns, add_generation_prompt=False, supervise=True)
    reference.zero_grad(), model.module.zero_grad()
    reference.model.rope_deltas = None
    for parameter in model.module.parameters():
        parameter.requires_grad_(True)
    expected = reference(**reference_inputs(name, model, batch), labels=batch.labels).loss
    logits = model.module(batch)
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], batch.labels[0, 1:], ignore_index=-100)
    assert abs(loss.item() - expected.item()) <= ATOL
    loss.backward(), expected.backward()
    gradients_agree(reference, model, folder)


def test_greedy_tokens_agree_and_a_batch_equals_its_members(pair) -> None:
    name, reference, model, _ = pair
    together = model.generate(TALKS, max_new_tokens=10, batch_size=len(TALKS))
    for conversation, reply in zip(TALKS, together, strict=True):
        batch = model.processor([conversation])
        reference.model.rope_deltas = None
        ids = reference.generate(
            **reference_inputs(name, model, batch), max_new_tokens=10, do_sample=False, pad_token_id=0
        )[0, batch.input_ids.shape[1] :].tolist()
        ends = model.processor.tokenizer.eos_ids
        expected = ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))]
        assert list(reply.token_ids) == expected
        assert list(model.generate(conversation, max_new_tokens=10)[0].token_ids) == expected


def test_past_a_long_video_the_published_code_goes_on_behind_its_last_moment() -> None:
    model = chiasm.new("qwen2_5_vl")
    batch = model.processor([talk(1, film(1, 24, 16, 16, fps=1.0))])
    positions = model.module.positions(batch, None)
    span = batch.spans[0]
    assert positions[0, 0, span.start].item() == span.start
    # 12 groups of 2 seconds at 2 positions a second: the last begins 44 positions after the first
    assert positions[0, 0, span.stop - 1].item() == span.start + 44
    assert (positions[:, 0, span.stop] == span.start + 45).all()


def sizes() -> list[tuple[int, int]]:
    random = np.random.default_rng(7)
    found = [(1, 1), (1, 200), (200, 1), (5000, 200), (28, 28), (29, 27), (3840, 2160), (1000, 5), (1, 5000), (4999, 9)]
    while len(found) < 200:
        width, height = np.exp(random.uniform(0, np.log(3000), 2)).astype(int)
        found.append((max(1, int(width)), max(1, int(height))))
    return found


def test_grids_and_counts_of_200_sizes() -> None:
    for low, high in ((56 * 56, 28 * 28 * 1280), (4 * 784, 16384 * 784)):
        tiler = SmartResize(min_pixels=low, max_pixels=high)
        for width, height in sizes():
            try:
                wanted = smart_resize(height, width, min_pixels=low, max_pixels=high)
            except ValueError:
                with pytest.raises(ChiasmError, match="picture_too_thin"):
                    tiler.plan((width, height))
                continue
            plan = tiler.plan((width, height))
            assert plan.crops[0].size == wanted[::-1]
            assert plan.num_tokens == wanted[0] * wanted[1] // 784


def test_patches_equal_the_reference_to_the_bit() -> None:
    settings = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 40 * 784}
    ours, theirs = PackedImageProcessor.from_settings(settings), Qwen2VLImageProcessorPil(**settings)
    chosen = [size for size in sizes() if max(size) <= 200 * min(size)]
    for at, (width, height) in enumerate(chosen):
        if width * height > 4_000_000 and at > 10:
            continue
        one = picture(at, width, height)
        wanted = theirs(one, return_tensors="np")
        pixels, plans = ours.pixels([one])
        assert [[1, 2 * plans[0].tokens[0], 2 * plans[0].tokens[1]]] == wanted["image_grid_thw"].tolist()
        assert np.array_equal(pixels.numpy(), wanted["pixel_values"]), (width, height)


def test_patches_of_a_video_are_the_formula() -> None:
    """transformers' video processor needs torchvision: groups of two frames, the last repeated, checked by hand."""
    ours = PackedImageProcessor.from_settings({"image_processor_type": "Qwen2VLImageProcessor"}, {})
    frames = [picture(at, 120, 90) for at in range(3)]
    pixels, plans = ours.pixels([Frames((0.0, 0.5, 1.0), 2.0, (120, 90), lambda: iter(frames))])
    (plan,) = plans
    width, height = plan.crops[0].size
    assert (plan.steps, len(plan.crops), plan.step_seconds) == (2, 3, 1.0)
    assert 128 * 784 <= width * height <= 768 * 784
    table = ours._table()
    resized = [np.asarray(frame.resize((width, height), 3)) for frame in [*frames, frames[-1]]]
    stack = np.stack([np.stack([table[c][frame[..., c]] for c in range(3)]) for frame in resized])  # (T, 3, h, w)
    tall, wide = height // 28, width // 28
    cut = stack.reshape(2, 2, 3, tall, 2, 14, wide, 2, 14).transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
    assert np.array_equal(pixels.numpy(), cut.reshape(-1, 1176))
    seen = ours.crops(pixels, plans)
    assert len(seen[0]) == 3 and np.array_equal(np.asarray(seen[0][1]), resized[1])
