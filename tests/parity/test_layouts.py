"""Layouts against transformers: every spelling loads, what we save loads there under the same names, configs agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.weights.checkpoint import load_state, open_checkpoint, read_config, save_state
from chiasm.weights.files import write_json
from chiasm.weights.layouts import bert, layout_for, layout_of, layouts, llama, open_clip

VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION |= {"image_size": 16, "patch_size": 8}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99}
GROUPED = {**TEXT, "num_key_value_heads": 2}


def clip() -> Any:
    text = {**TEXT, "max_position_embeddings": 12}
    return transformers.CLIPModel(transformers.CLIPConfig(vision_config=VISION, text_config=text, projection_dim=24))


def siglip() -> Any:
    text = {**TEXT, "max_position_embeddings": 12}
    return transformers.SiglipModel(transformers.SiglipConfig(vision_config=VISION, text_config=text))


def llava(tied: bool = False, nested: bool = False, **more: Any) -> Any:
    vision = transformers.CLIPVisionConfig(**VISION)
    text = transformers.LlamaConfig(**GROUPED, tie_word_embeddings=nested)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=98, tie_word_embeddings=tied, **more
    )
    return transformers.LlavaForConditionalGeneration(config)


def llava_next(tied: bool = False, nested: bool = False) -> Any:
    vision = transformers.CLIPVisionConfig(**VISION)
    text = transformers.MistralConfig(**GROUPED, tie_word_embeddings=nested)
    config = transformers.LlavaNextConfig(
        vision_config=vision, text_config=text, image_token_index=98, tie_word_embeddings=tied
    )
    return transformers.LlavaNextForConditionalGeneration(config)


WHOLE: dict[str, Callable[[], Any]] = {"clip": clip, "siglip": siglip, "llava": llava, "llava_next": llava_next}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What transformers writes for a random miniature, once each."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            torch.manual_seed(0)
            model = WHOLE[name]()
            for parameter in model.parameters():  # no two tensors alike, so that a swap is seen
                parameter.data.normal_()
            made[name] = tmp_path_factory.mktemp(name)
            model.save_pretrained(made[name])
        return made[name]

    return make


def filled(folder: Path) -> tuple[Any, torch.nn.Module]:
    """Our config and module with a folder's weights."""
    description = read_config(folder)
    layout = layout_for(description)
    config = layout.config_from(description)
    with torch.device("meta"):
        module = config.build()
    load_state(module, open_checkpoint(folder), layout.table(config))
    return config, module


def rewrite(source: Path, folder: Path, rename: Callable[[str], str]) -> Path:
    """A copy of a checkpoint with other names."""
    folder.mkdir()
    save_file(
        {rename(name): t for name, t in load_file(source / "model.safetensors").items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text((source / "config.json").read_text())
    return folder


@pytest.mark.parametrize("name", WHOLE)
def test_there_and_back_through_our_modules(name: str, saved: Callable[[str], Path], tmp_path: Path) -> None:
    source = saved(name)
    config, module = filled(source)
    layout = layout_of(config)
    assert layout.name == name
    theirs = layout.table(config).to_theirs(module.state_dict())
    original = load_file(source / "model.safetensors")
    assert sorted(theirs) == sorted(original)
    assert all(torch.equal(theirs[key], original[key]) for key in original)
    save_state(tmp_path, theirs)
    write_json(tmp_path / "config.json", layout.config_to(config))
    loaded, info = getattr(transformers, read_config(source)["architectures"][0]).from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    written = load_file(again / "model.safetensors")
    assert sorted(written) == sorted(original) and all(torch.equal(written[key], original[key]) for key in original)


@pytest.mark.parametrize("name", WHOLE)
def test_configs_there_and_back(name: str, saved: Callable[[str], Path]) -> None:
    description = read_config(saved(name))
    layout = layout_for(description)
    config = layout.config_from(description)
    written = layout.config_to(config)
    assert layout.config_from(json.loads(json.dumps(written))) == config
    kind = written.pop("model_type")
    reference = transformers.AutoConfig.for_model(kind, **written)
    assert layout.config_from(reference.to_dict()) == config
    assert written["architectures"] == description["architectures"]


def hub(name: str) -> str:
    return name.replace("vision_tower.", "vision_tower.vision_model.", 1)


def memory(name: str) -> str:
    if name.startswith("language_model.lm_head."):
        return name.removeprefix("language_model.")
    return "model." + name.replace("language_model.model.", "language_model.", 1)


def older_memory(name: str) -> str:
    return hub(memory(name))


@pytest.mark.parametrize("name", ["llava", "llava_next"])
@pytest.mark.parametrize("spelling", [hub, memory, older_memory])
def test_llava_in_every_spelling(
    name: str, spelling: Callable[[str], str], saved: Callable[[str], Path], tmp_path: Path
) -> None:
    _, expected = filled(saved(name))
    _, module = filled(rewrite(saved(name), tmp_path / "other", spelling))
    ours, theirs = module.state_dict(), expected.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_memory_is_how_a_reference_module_spells_itself(name: str, saved: Callable[[str], Path]) -> None:
    stored = load_file(saved(name) / "model.safetensors")
    assert sorted(map(memory, stored)) == sorted(WHOLE[name]().state_dict())


def test_buffers_of_older_files_are_known(saved: Callable[[str], Path], tmp_path: Path) -> None:
    source = rewrite(saved("clip"), tmp_path / "old", str)
    state = load_file(source / "model.safetensors")
    state["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    save_file(state, source / "model.safetensors")
    filled(source)
    state["vision_model.embeddings.positions"] = torch.arange(5)
    save_file(state, source / "model.safetensors")
    with pytest.raises(CheckpointError, match="1 tensor unexpected: vision_model.embeddings.positions"):
        filled(source)


SPARSE_LLAVA = {  # as the hub's llava-1.5-7b-hf: nearly everything is left to the reference class
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "projector_hidden_act": "gelu",
    "text_config": {"model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "vocab_size": 32064},
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llava 1.5 on the hub": SPARSE_LLAVA,
    "llava, all defaults": {"model_type": "llava"},
    "llava-next, mistral, older rope": {
        "model_type": "llava_next",
        "text_config": {
            "model_type": "mistral",
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 8,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "vocab_size": 32064,
        },
        "vision_config": SPARSE_LLAVA["vision_config"],
    },
    "clip, all defaults": {"model_type": "clip"},
    "clip, oldest form": {
        "model_type": "clip",
        "projection_dim": 768,
        "text_config": None,
        "text_config_dict": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        "vision_config": {"patch_size": 16},
        "vision_config_dict": {
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "patch_size": 14,
            "num_hidden_layers": 24,
        },
    },
    "siglip, all defaults": {"model_type": "siglip"},
    "siglip, so400m": {
        "model_type": "siglip",
        "text_config": {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
        },
        "vision_config": {"hidden_size": 1152, "image_size": 384, "intermediate_size": 4304, "patch_size": 14}
        | {"num_attention_heads": 16, "num_hidden_layers": 27},
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_sparse_and_older_configs_mean_what_the_reference_makes_of_them(name: str) -> None:
    stored = CONFIGS[name]
    layout = layout_for(stored)
    mine = layout.config_from(stored)
    copy = json.loads(json.dumps(stored))
    reference = transformers.AutoConfig.for_model(copy.pop("model_type"), **copy)
    assert layout.config_from({**reference.to_dict(), "model_type": layout.name}) == mine


ROPES: dict[str, dict[str, Any]] = {
    "older theta": {"rope_theta": 5e5},
    "older linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama 3.1": {
        "rope_theta": 5e5,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "newer": {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}},
}


@pytest.mark.parametrize("name", ROPES)
def test_both_forms_of_rotary_settings(name: str) -> None:
    reference = transformers.LlamaConfig(**GROUPED, **ROPES[name])
    config = llama.decoder_config({"model_type": "llama", **GROUPED, **ROPES[name]})
    assert llama.decoder_config(reference.to_dict()) == config
    rotary = transformers.LlamaForCausalLM(reference).model.rotary_emb
    assert torch.allclose(config.rotary.frequencies(8), rotary.inv_freq, rtol=1e-6)
    assert llama.decoder_config(llama.decoder_dict(config)) == config


@pytest.mark.parametrize(
    ("kind", "tied"), [("llama", False), ("llama", True), ("mistral", False), ("qwen2", False), ("qwen2", True)]
)
def test_language_models(kind: str, tied: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference_config = transformers.AutoConfig.for_model(kind, **GROUPED, tie_word_embeddings=tied)
    reference = transformers.AutoModelForCausalLM.from_config(reference_config).eval()
    for parameter in reference.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    reference.save_pretrained(tmp_path)
    config = llama.decoder_config(read_config(tmp_path))
    with torch.device("meta"):
        module = config.build()
    report = load_state(module, open_checkpoint(tmp_path), llama.table(config))
    assert report.tensors == report.filled == len(module.state_dict())
    ids = torch.arange(10)[None] * 7 % 99
    with torch.no_grad():
        ours = module.logits(module(module.embed_tokens(ids)))
        assert (ours - reference(input_ids=ids).logits).abs().max() <= 1e-5
    theirs = llama.table(config).to_theirs(module.state_dict())
    assert sorted(theirs) == sorted(load_file(tmp_path / "model.safetensors"))


def test_a_tied_head_that_a_file_repeats(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    ours = llama.decoder_config(read_config(tmp_path))
    with torch.device("meta"):
        module = ours.build()
    save_state(tmp_path, {**state, "lm_head.weight": state["model.embed_tokens.weight"].clone()})
    load_state(module, open_checkpoint(tmp_path), llama.table(ours))
    save_state(tmp_path, {**state, "lm_head.weight": torch.randn(99, 32)})
    with pytest.raises(CheckpointError, match="tensor_untied"):
        load_state(module, open_checkpoint(tmp_path), llama.table(ours))


@pytest.mark.parametrize("whole", [llava, llava_next])
@pytest.mark.parametrize(("tied", "nested"), [(True, False), (False, True), (True, True)])
def test_who_decides_that_the_output_layer_is_tied(whole: Any, tied: bool, nested: bool) -> None:
    reference = whole(tied, nested)
    together = reference.get_output_embeddings().weight is reference.get_input_embeddings().weight
    stored = reference.config.to_dict()
    assert layout_for(stored).config_from(stored).language.tie_embeddings == together


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_bert(prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(**TEXT, max_position_embeddings=20)
    reference = transformers.BertModel(config).eval()
    reference.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_state(tmp_path, {prefix + name: tensor for name, tensor in state.items()})
    ours = bert.config_from(read_config(tmp_path))
    with torch.device("meta"):
        module = ours.build()
    load_state(module, open_checkpoint(tmp_path), bert.table(ours))
    ids, attend = torch.arange(10).view(2, 5), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    with torch.no_grad():
        expected = reference(input_ids=ids, attention_mask=attend.long()).last_hidden_state
        assert (module.states(ids, attend) - expected)[attend].abs().max() <= 1e-5
    assert sorted(bert.table(ours).to_theirs(module.state_dict())) == sorted(state)
    written = bert.config_to(ours)
    assert bert.config_from(transformers.AutoConfig.for_model(written.pop("model_type"), **written).to_dict()) == ours


def test_the_authors_own_llava(saved: Callable[[str], Path], tmp_path: Path) -> None:
    original = next(layout for layout in layouts() if layout.name == "llava_original")
    config, module = filled(saved("llava"))
    stored = original.config_to(config)
    assert layout_for(stored) is original and original.config_from(stored) == config
    save_state(tmp_path, original.table(config).to_theirs(module.state_dict()))
    write_json(tmp_path / "config.json", stored)
    assert "model.mm_projector.2.weight" in open_checkpoint(tmp_path)
    again_config, again = filled(tmp_path)
    ours, theirs = again.state_dict(), module.state_dict()
    assert again_config == config and all(torch.equal(ours[key], theirs[key]) for key in theirs)
    published = {"model_type": "llava", "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_hidden_size": 1024}
    published |= {"mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "pad", "vocab_size": 32000}
    assert original.config_from(published).vision.image_size == 336
    with pytest.raises(ConfigError, match="image_aspect_ratio"):
        original.config_from({**published, "image_aspect_ratio": "anyres"})


def test_every_preset_s_config_survives_its_layout() -> None:
    from chiasm.core.registry import families

    for family in ("clip", "siglip", "llava", "llava_next"):
        for name, config in families()[family].presets.items():
            layout = layout_of(config)
            again = layout.config_from(json.loads(json.dumps(layout.config_to(config))))
            if layout.name == "open_clip":  # its config holds no first temperature
                again = open_clip.config_from(layout.config_to(again))
            assert again == config, name


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({}, "model_type_missing"),
        ({"model_type": "gpt5"}, "model_type_unknown"),
        ({"model_type": ["clip"]}, "model_type_missing"),
        ({"model_type": "llava", "text_config": {"model_type": "gemma"}}, "model_type_unknown"),
        ({"model_type": "llava", "vision_config": {"model_type": "pixtral"}}, "model_type_unknown"),
        ({"model_type": "llava", "vision_feature_layer": [-2, -26]}, "config_field"),
        ({"model_type": "llava", "vision_feature_layer": []}, "config_field"),
        ({"model_type": "llava", "text_config": {"rope_scaling": {"rope_type": "spiral"}}}, "rope_unknown"),
        ({"model_type": "clip", "vision_config": {"hidden_size": "large"}}, "config_field"),
        ({"model_type": "clip", "vision_config": {"num_channels": 4}}, "config_variant"),
        ({"model_type": "siglip", "vision_config": {"vision_use_head": False}}, "config_variant"),
        ({"model_type": "clip", "text_config": {"hidden_act": "mish"}}, "activation_unknown"),
    ],
)
def test_what_we_don_t_know_is_named(config: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        built = layout_for(config).config_from(config)
        with torch.device("meta"):
            built.build()
    assert caught.value.code == code and "\n" not in str(caught.value)
