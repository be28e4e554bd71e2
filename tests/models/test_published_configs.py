"""A folder of each checkpoint with its published config.json: loaded, asked, saved back, proved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.models.published_configs import published

import chiasm
from chiasm.core.registry import family
from chiasm.processing.tokenizer import Tokenizer
from chiasm.weights.checkpoint import save_state
from chiasm.weights.files import write_json
from chiasm.weights.golden import check_golden, write_golden
from chiasm.weights.layouts import layout_for
from chiasm.weights.load import initialise

CONTROLS = (
    "<IMG_CONTEXT>", "<img>", "</img>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>",
    "<|image|>", "<|media_start|>", "<|media_content|>", "<|media_pad|>", "<|media_end|>", "<|im_middle|>",
)  # fmt: skip


def words(controls: tuple[str, ...] = CONTROLS) -> Tokenizer:
    from chiasm.processing.miniature import tiny_tokenizer

    return tiny_tokenizer("chatml", controls=controls)


NAMES = sorted(published(len(words())))
PICTURE = Image.new("RGB", (150, 90), (200, 30, 30))
TALK = [{"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "what?"}]}]


def folder_of(name: str, folder: Path) -> Path:
    """A checkpoint's folder with random weights."""
    tokenizer = words()
    config, pictures = published(len(tokenizer))[name]
    for key, token in (("image_token_id", "<|image_pad|>"), ("video_token_id", "<|video_pad|>"),
                       ("media_placeholder_token_id", "<|media_pad|>")):  # fmt: skip
        if key in config:
            config[key] = tokenizer.token_to_id("<IMG_CONTEXT>" if name.endswith("-HF") else token)
    folder.mkdir()
    write_json(folder / "config.json", config)
    if pictures is not None:
        write_json(folder / "preprocessor_config.json", pictures)
    tokenizer.save(folder)
    layout = layout_for(config)
    ours = layout.config_from(config)
    save_state(folder, layout.table(ours).to_theirs(initialise(ours).state_dict()))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_published_folder_is_loaded_asked_saved_and_proved(name: str, tmp_path: Path) -> None:
    one = folder_of(name, tmp_path / "one")
    model = chiasm.load(one)
    reply = model.generate(TALK, max_new_tokens=3)[0]
    seen = model.inspect(TALK)
    assert reply.usage.image_tokens == seen.plans[0].num_tokens > 0
    batch = model.processor(TALK)
    with torch.no_grad():
        logits = model.module(batch)
    model.save(tmp_path / "two")
    again = chiasm.load(tmp_path / "two")
    assert again.config == model.config
    second = again.processor(TALK)
    assert torch.equal(second.input_ids, batch.input_ids)
    with torch.no_grad():
        assert torch.equal(again.module(second), logits)
    stored = {path.name for path in one.glob("*.safetensors")}
    assert stored == {path.name for path in (tmp_path / "two").glob("*.safetensors")}
    write_golden(model, one)
    assert check_golden(chiasm.load(one), one).passed


@pytest.mark.parametrize("name", ["Qwen2.5-VL-7B-Instruct", "InternVL2_5-HF", "Kimi-VL-A3B-Instruct"])
def test_both_forms_of_picture_settings_say_the_same(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path / "one")
    older = chiasm.load(folder).processor(TALK)
    stored = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    write_json(folder / "processor_config.json", {"image_processor": stored, "processor_class": "Any"})
    newer = chiasm.load(folder).processor(TALK)
    assert torch.equal(older.pixel_values, newer.pixel_values) and torch.equal(older.input_ids, newer.input_ids)


def test_every_family_of_this_kind_is_here() -> None:
    size = len(words())
    found = {layout_for(config).family for config, _ in published(size).values()}
    assert found == {"internvl", "qwen2_vl", "qwen2_5_vl", "kimi_vl", "molmo", "cogvlm", "xcomposer"}
    assert all(family(name).tiny() for name in found)
