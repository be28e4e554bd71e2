"""Published sizes of the high-resolution and the bridged families at tiny width: saved, loaded, asked, saved back,
proved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import chiasm
from chiasm.core.registry import families
from chiasm.models.assembly import Parts
from chiasm.models.model import Model
from chiasm.models.shrinking import shrink
from chiasm.weights.checkpoint import save_state
from chiasm.weights.golden import check_golden, write_golden
from chiasm.weights.layouts import layout_of, open_clip
from chiasm.weights.load import _writer, initialise

NAMES = (
    "qwen2_vl", "qwen2_5_vl", "internvl", "kimi_vl", "molmo", "cogvlm", "xcomposer",
    "blip2", "instructblip", "idefics", "kosmos", "qwen_vl", "xgen_mm",
)  # fmt: skip
# One of each wiring: sizes of a family that differ in width alone are the same here.
SIZES = [
    "qwen2_vl_2b", "qwen2_5_vl_7b", "internvl2_1b", "internvl2_26b", "kimi_vl_a3b", "molmo_e_1b", "molmo_7b_o",
    "molmo_7b_d", "cogvlm_17b_224", "cogvlm2_video_12b", "xcomposer2_4khd_7b",
    "blip2_flan_t5_xl", "instructblip_vicuna_7b", "idefics_9b", "kosmos_2", "qwen_vl_7b",
    "xgen_mm_phi3_mini",
]  # fmt: skip


def published(size: str) -> Model:
    """The published configuration at tiny width, with a miniature's tokenizer."""
    name = next(name for name in NAMES if size in families()[name].presets)
    family = families()[name]
    _, template = family.tiny()
    tokenizer = template.tokenizer
    small = shrink(family.presets[size])
    if hasattr(small, "max_tiles"):
        small = replace(small, max_tiles=2)  # quick: a picture costs thousands of tokens otherwise
    slots = {"image_token_id": tokenizer.token_to_id(template.image_token)}
    if hasattr(small, "stored_words"):
        slots["stored_words"] = len(tokenizer)
    if hasattr(small, "video_token_id"):
        slots["video_token_id"] = tokenizer.token_to_id(template.video.token)
    small = replace(small, **slots, language=replace(small.language, vocab_size=len(tokenizer)))
    processor = family.processor(small, Parts(tokenizer, template=template.template))
    return Model(initialise(small), processor, family, small, writer=_writer(layout_of(small)))


@pytest.mark.parametrize("size", SIZES)
def test_a_published_folder_loads_answers_saves_back_and_is_proved(size: str, tmp_path: Path) -> None:
    made = published(size)
    made.save(tmp_path / "one")
    model = chiasm.load(tmp_path / "one")
    assert model.config == made.config
    picture = Image.new("RGB", (90, 60), (200, 30, 30))
    talk = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "what?"}]}]
    reply = model.generate(talk, max_new_tokens=3)[0]
    assert reply.usage.image_tokens == model.inspect(talk).plans[0].num_tokens
    with torch.no_grad():
        batch = made.processor(talk)
        assert (made.module(batch) - model.module(batch)).abs().max() <= 1e-4
    model.save(tmp_path / "two")
    one, two = ({f.relative_to(tmp_path / n) for f in (tmp_path / n).rglob("*") if f.is_file()} for n in ("one", "two"))
    assert one == two
    for name in one:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    write_golden(model, tmp_path / "one")
    assert check_golden(chiasm.load(tmp_path / "one"), tmp_path / "one").passed


@pytest.mark.parametrize("pictures", [{"size": 32}, {"size": [32, 32], "resize_mode": "squash"}])
def test_a_folder_of_open_clips_is_saved_as_one(pictures: dict[str, Any], tmp_path: Path) -> None:
    config, template = families()["clip"].tiny()
    described = open_clip.config_to(config) | {"preprocess_cfg": pictures}
    save_state(tmp_path, open_clip.table(config).to_theirs(initialise(config).state_dict()), stem="open_clip_model")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    template.tokenizer.save(tmp_path)
    model = chiasm.load(tmp_path)
    model.save(tmp_path / "again")
    again = chiasm.load(tmp_path / "again")
    assert again.processor.image_processor == model.processor.image_processor != template.image_processor
    stored = json.loads((tmp_path / "again" / "open_clip_config.json").read_text())["preprocess_cfg"]
    assert stored.items() >= {**pictures, "size": [32, 32]}.items()
    shown = Image.new("RGBA", (50, 41), (200, 30, 30, 90))
    assert torch.equal(again.embed_images([shown]), model.embed_images([shown]))
