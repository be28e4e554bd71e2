"""`load(…, quantize=…)`: every family stays close, nothing full-precision is pretended, mistakes are named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.nn.rounding import plain_int8

import chiasm
from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.nn.quantized import Int8Linear, QuantizedLinear
from chiasm.weights.quantize import quantize

PICTURE = Image.effect_noise((96, 80), 60).convert("RGB")
TALK = [{"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "what is it?"}]}]


def numbers(model) -> torch.Tensor:
    if "generate" in model.capabilities:
        return torch.tensor(model.score([TALK], ["a red cat"])[0].logprobs)
    if "embed" in model.capabilities:
        return torch.cat([model.embed_images([PICTURE]).flatten(), model.embed_texts(["a cat"]).flatten()])
    return model.match([PICTURE], ["a cat"])


@pytest.mark.parametrize("name", sorted(chiasm.families()))
def test_every_family_computes_its_rounded_layers_and_stays_close(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = chiasm.new(name, tiny=True)
    before = numbers(model)
    quantize(model.module, "int8:all")
    assert any(isinstance(part, QuantizedLinear) for part in model.module.modules())
    found, most = numbers(model), float(before.abs().max())
    share = 0.04 if torch.cpu._is_vnni_supported() else 0.08  # inputs are rounded to 7 bits there, twice as coarsely
    torch.testing.assert_close(found, before, atol=share * most, rtol=0)
    # the rounding is all that differs; an input that lies between two codes may fall to either, a whole step apart
    monkeypatch.setattr(Int8Linear, "forward", plain_int8)
    torch.testing.assert_close(found, numbers(model), atol=share / 4 * most, rtol=0)


def test_language_model_alone_unless_all_is_asked(tmp_path: Path) -> None:
    chiasm.new("llava", tiny=True).save(tmp_path / "m")
    model = chiasm.load(tmp_path / "m", quantize="int8")
    kinds = {name.split(".")[0] for name, part in model.module.named_modules() if isinstance(part, QuantizedLinear)}
    assert kinds == {"language"} and model.quantized == "int8" and "int8" in repr(model)
    everything = chiasm.load(tmp_path / "m", quantize="int8:all").module
    kinds = {name.split(".")[0] for name, part in everything.named_modules() if isinstance(part, QuantizedLinear)}
    assert kinds == {"language", "vision", "connector"}
    towers = chiasm.new("clip", tiny=True)
    quantize(towers.module, "int8")  # no language model that writes: towers
    assert isinstance(towers.module.vision_proj, Int8Linear)


@pytest.mark.parametrize("how", ["int8", "int4"])
def test_tied_output_layer_gets_its_own_eight_bits(how: str) -> None:
    model = chiasm.new("nano", tiny=True)
    assert model.config.language.tie_embeddings
    table = model.module.language.embed_tokens.weight.clone()
    quantize(model.module, how)
    assert isinstance(model.module.language.lm_head, Int8Linear)
    assert torch.equal(model.module.language.embed_tokens.weight, table)


def test_quantized_models_are_not_saved(tmp_path: Path) -> None:
    chiasm.new("llava", tiny=True).save(tmp_path / "m")
    with pytest.raises(CheckpointError, match="int4") as caught:
        chiasm.load(tmp_path / "m", quantize="int4").save(tmp_path / "again")
    assert caught.value.code == "quantized_save" and not (tmp_path / "again").exists()


@pytest.mark.parametrize("how", ["int3", "int8:", "int8:some", "", "INT8"])
def test_unknown_ways_are_named_before_anything_is_read(how: str) -> None:
    with pytest.raises(ConfigError) as caught:
        chiasm.load("/nowhere/at/all", quantize=how)
    assert caught.value.code == "quantize_unknown" and "int4:all" in str(caught.value)


def test_the_command_line_takes_it(tmp_path: Path) -> None:
    chiasm.new("llava", tiny=True).save(tmp_path / "m")
    PICTURE.save(tmp_path / "p.png")
    ask = [sys.executable, "-m", "chiasm", "ask", str(tmp_path / "m"), str(tmp_path / "p.png"), "what?"]
    done = subprocess.run([*ask, "--quantize", "int8", "--max-new-tokens", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
