"""Exports are read by the programs that they are for, and proved before they appear."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from gguf import GGUFReader, dequantize

import chiasm
from chiasm.core.errors import ChiasmError
from chiasm.core.registry import family
from chiasm.models import blip
from chiasm.models.model import Model
from chiasm.models.vilt import Ranking
from chiasm.weights import export
from chiasm.weights.export import IN_TRANSFORMERS, check_hf, to_gguf, to_hf
from chiasm.weights.files import read_json
from chiasm.weights.gguf_export import read_back, tokenizer_fields
from chiasm.weights.golden import synthetic_pictures
from chiasm.weights.load import initialise, writer_for


def published(name: str) -> Model:
    """A miniature in a form that transformers has a class for: two families' own are the pretraining ones."""
    if name == "blip":
        config, processor = blip.tiny(encoder=False, joint=False)
    elif name == "vilt":
        config, processor = family("vilt").tiny()
        config = replace(config, head=Ranking())
    else:
        return chiasm.new(name, tiny=True)
    return Model(initialise(config), processor, family(name), config, writer=writer_for(config), name=name)


@pytest.fixture(scope="module")
def llava():
    return chiasm.new("llava", tiny=True)


def refused(action) -> str:
    with pytest.raises(ChiasmError) as caught:
        action()
    return caught.value.code


def test_transformers_loads_the_folder_and_agrees(llava, tmp_path: Path) -> None:
    done = to_hf(llava, tmp_path / "out")
    assert done.vllm and {"config.json", "model.safetensors", "tokenizer.json"} <= set(done.files)
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    picture = synthetic_pictures()[0]
    talk = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "what?"}]}]
    batch = llava.processor([talk])
    with torch.inference_mode():
        expected = theirs(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), pixel_values=batch.pixel_values
        ).logits
        torch.testing.assert_close(llava.module(batch), expected, atol=1e-5, rtol=0)


def test_every_class_named_is_there() -> None:
    assert set(IN_TRANSFORMERS) <= set(transformers.CONFIG_MAPPING)
    for kind, names in IN_TRANSFORMERS.items():
        assert all(getattr(transformers, name).config_class.model_type == kind for name in names)


@pytest.mark.parametrize("name", sorted({*IN_TRANSFORMERS} - {"blip-2", "kosmos-2"} | {"blip2", "kosmos"}))
def test_transformers_uses_every_tensor_of_every_family(name: str, tmp_path: Path) -> None:
    model = published(name)
    model.save(tmp_path / "m")
    check_hf(tmp_path / "m", model)
    described = read_json(tmp_path / "m" / "config.json")
    kind = getattr(transformers, described["architectures"][0])
    theirs, info = kind.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not any(info.values()), info
    assert theirs.config.model_type == described["model_type"]


@pytest.mark.parametrize("name", ["palme", "internvl_g"])  # the second says `internvl`, which is another model there
def test_families_without_a_class_are_refused(name: str, tmp_path: Path) -> None:
    assert refused(lambda: to_hf(chiasm.new(name, tiny=True), tmp_path / "out")) == "export_layout"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_gguf_files_hold_the_model(llava, tmp_path: Path, kind: str) -> None:
    done = to_gguf(llava, tmp_path / "out", kind)
    assert done.worst <= (1e-6 if kind == "f32" else 0.02)
    text, pictures = (GGUFReader(tmp_path / "out" / name) for name in sorted(done.files, reverse=True))
    seen = {tensor.name: tensor for tensor in pictures.tensors}
    # a tower read after its last block but one is written without the last
    assert "v.blk.1.ffn_down.bias" in seen and "v.blk.2.ln1.weight" not in seen and "v.post_ln.weight" not in seen
    assert pictures.get_field("clip.vision.feature_layer").contents() == [2]
    assert pictures.get_field("clip.projector_type").contents() == "mlp"
    up = llava.module.vision.blocks[0].mlp.fc1.weight
    tensor = seen["v.blk.0.ffn_up.weight"]
    torch.testing.assert_close(torch.tensor(dequantize(tensor.data, tensor.tensor_type)), up, atol=1e-3, rtol=0)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in text.tensors}
    assert kinds["blk.0.ffn_down.weight"] == kind.upper() and kinds["output_norm.weight"] == "F32"
    assert text.get_field("tokenizer.ggml.pre").contents() == "smollm"


def test_a_file_that_gives_other_numbers_never_appears(llava, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(text: Path, pictures: Path):
        module = read_back(text, pictures)
        module.connector.fc2.weight.data.mul_(1.1)
        return module

    monkeypatch.setattr(export, "read_back", wrong)
    assert refused(lambda: to_gguf(llava, tmp_path / "out", "f32")) == "export_differs"
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_said_is_refused(llava, tmp_path: Path) -> None:
    assert refused(lambda: to_gguf(chiasm.new("clip", tiny=True), tmp_path / "a", "f16")) == "export_family"
    assert refused(lambda: to_gguf(llava, tmp_path / "a", "q2_k")) == "export_kind"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert refused(lambda: to_gguf(llava, tmp_path / "full", "f16")) == "folder_not_empty"
    words = chiasm.new("vilt", tiny=True).processor.tokenizer
    assert refused(lambda: tokenizer_fields(words, None, len(words))) == "export_tokenizer"


def test_numbers_beyond_the_vocabulary_are_unused_tokens(llava) -> None:
    tokenizer = llava.processor.tokenizer
    fields = tokenizer_fields(tokenizer, None, len(tokenizer) + 3)
    assert fields["tokenizer.ggml.tokens"][-1] == f"[UNUSED{len(tokenizer) + 2}]"
    assert fields["tokenizer.ggml.token_type"][-4:] == [3, 5, 5, 5]  # the picture's control token, then padding
