"""Low-rank adapters beside peft: theirs load here, ours load there, and both compute the same."""

import json
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import chiasm
from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.nn.lora import LoRALinear, add_lora
from chiasm.weights.load import save_adapter

LAYERS = r"(language\.blocks\.\d+\.(attn\.[qv]_proj|mlp\.up_proj))|(vision\.blocks\.1\.attn\.o_proj)"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "llava"
    chiasm.new("llava").save(folder)
    return folder


def reference(base: Path):
    return transformers.LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32).eval()


def inputs(model):
    picture = torch.linspace(0, 255, 40 * 50 * 3).reshape(40, 50, 3).to(torch.uint8).numpy()
    return model.processor([[{"role": "user", "content": [{"type": "image", "image": picture}, "what is it?"]}]])


def ours(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.module(inputs(model))


@torch.inference_mode()
def theirs(model, batch) -> torch.Tensor:
    out = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), pixel_values=batch.pixel_values)
    return out.logits


def test_our_adapter_loads_in_peft_and_here(base, tmp_path):
    model = chiasm.load(base)
    plain = ours(model)
    add_lora(model.module, LAYERS, rank=3, alpha=6.0)
    add_lora(model.module, r"language\.blocks\.0\.mlp\.down_proj", rank=2, alpha=5.0)
    torch.manual_seed(0)
    for layer in model.module.modules():
        if isinstance(layer, LoRALinear):
            nn.init.normal_(layer.lora_b, std=0.1)
    nn.init.normal_(model.module.connector.fc2.bias)
    adapted = ours(model)
    whole = ["connector.fc2.weight", "connector.fc2.bias"]
    save_adapter(model, tmp_path / "adapter", str(base), whole=whole)
    there = peft.PeftModel.from_pretrained(reference(base), tmp_path / "adapter").eval()
    torch.testing.assert_close(theirs(there, inputs(model)), adapted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(chiasm.load(tmp_path / "adapter")), adapted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(adapted, plain, atol=1e-2)


@pytest.mark.parametrize("rslora", [False, True])
def test_their_adapter_loads_here(base, tmp_path, rslora):
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj", "gate_proj"],
        modules_to_save=["multi_modal_projector"],
        rank_pattern={"gate_proj": 2},
        alpha_pattern={"layers.1.self_attn.v_proj": 3},
        use_rslora=rslora,
    )
    torch.manual_seed(0)
    there = peft.get_peft_model(reference(base), config).eval()
    for name, parameter in there.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            nn.init.normal_(parameter, std=0.1)
    there.save_pretrained(tmp_path)
    model = chiasm.load(tmp_path)
    expected = theirs(there, inputs(model))
    torch.testing.assert_close(ours(model), expected, rtol=1e-5, atol=1e-5)
    assert not any(isinstance(layer, LoRALinear) for layer in model.module.modules())
    model.save(tmp_path / "merged")
    torch.testing.assert_close(ours(chiasm.load(tmp_path / "merged")), expected, rtol=1e-5, atol=1e-5)


def test_names_are_the_modules_own(base, tmp_path):
    model = chiasm.load(base)
    add_lora(model.module, r"language\.blocks\.0\.attn\.q_proj", rank=2, alpha=4.0)
    save_adapter(model, tmp_path, "base")
    name = "model.language_model.layers.0.self_attn.q_proj"
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["target_modules"] == [name] and (settings["r"], settings["lora_alpha"]) == (2, 4)
    halves = {f"base_model.model.{name}.lora_{half}.weight" for half in "AB"}
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == halves


def test_a_family_of_our_own_keeps_its_names(tmp_path):
    model = chiasm.new("nano")
    model.save(tmp_path / "base")
    add_lora(model.module, r"language\.blocks\.\d\.attn\.q_proj", rank=2, alpha=4.0)
    nn.init.normal_(model.module.language.blocks[0].attn.q_proj.lora_b)
    save_adapter(model, tmp_path / "adapter", "../base")  # beside the adapter
    torch.testing.assert_close(ours(chiasm.load(tmp_path / "adapter")), ours(model), rtol=1e-5, atol=1e-5)


def test_mistakes_are_named(base, tmp_path):
    model = chiasm.load(base)
    with pytest.raises(ConfigError, match="lora_no_match"):
        save_adapter(model, tmp_path, str(base))
    add_lora(model.module, r"language\.blocks\.0\.attn\.q_proj", rank=2, alpha=4.0)
    save_adapter(model, tmp_path, str(base))
    path = tmp_path / "adapter_config.json"
    settings = json.loads(path.read_text())
    for change, code in (
        ({"peft_type": "IA3"}, "adapter_kind"),
        ({"use_dora": True}, "adapter_setting"),
        ({"base_model_name_or_path": None}, "adapter_base"),
    ):
        path.write_text(json.dumps({**settings, **change}))
        with pytest.raises(ConfigError, match=code):
            chiasm.load(tmp_path)
    path.write_text(json.dumps(settings))
    weights = load_file(tmp_path / "adapter_model.safetensors")
    name = next(iter(weights))
    save_file({k: v for k, v in weights.items() if k != name}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="lora_mismatch.*has only lora_"):
        chiasm.load(tmp_path)
    save_file(
        {k.replace("layers.0", "layers.9"): v for k, v in weights.items()}, tmp_path / "adapter_model.safetensors"
    )
    with pytest.raises(CheckpointError, match="lora_mismatch.*blocks.9"):
        chiasm.load(tmp_path)
