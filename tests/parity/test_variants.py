"""Configurations that nobody wrote down: drawn ones of LLaVA, LLaVA-NeXT and InternVL against transformers, both ways.

Towers of both kinds, one feature layer or several, with and without the class token, four language models with grouped
heads, biases, norms, ties and rotary positions as they come. What is drawn follows from the seed.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import transformers
from tests.parity.agreement import loaded
from tests.parity.test_families import VISION, conversation, reference_inputs

import chiasm

ROPES = (
    {"rope_type": "default", "rope_theta": 5e5},
    {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64, "rope_theta": 5e5},
    {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6, "original_max_position_embeddings": 512},
)  # fmt: skip


def language(rng: random.Random, vocab: int, end: int) -> dict[str, Any]:
    kind, heads = rng.choice(["llama", "mistral", "qwen2", "qwen3"]), rng.choice([2, 4])
    config = {
        "model_type": kind, "vocab_size": vocab, "hidden_size": 48, "intermediate_size": rng.choice([64, 96]),
        "num_hidden_layers": rng.choice([1, 2, 3]), "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([1, 2, heads]), "max_position_embeddings": 2048, "initializer_range": 0.2,
        "rms_norm_eps": rng.choice([1e-5, 1e-6]), "tie_word_embeddings": rng.random() < 0.3,
        "hidden_act": rng.choice(["silu", "silu", "gelu", "gelu_pytorch_tanh"]), "head_dim": 48 // heads,
        "eos_token_id": end, "bos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    if rng.random() < 0.4:
        config["head_dim"] = rng.choice([8, 16, 32])
    if kind in ("llama", "qwen3"):
        config["attention_bias"] = rng.random() < 0.3
    if kind == "llama":
        config["mlp_bias"] = rng.random() < 0.3
    return config | ({"rope_parameters": rng.choice(ROPES)} if rng.random() < 0.5 else {})


def llava(rng: random.Random, name: str, text: dict[str, Any], slot: int) -> Any:
    tower = rng.choice(["clip_vision_model", "siglip_vision_model"])
    vision = {**VISION, "model_type": tower, "hidden_act": rng.choice(["gelu", "quick_gelu"])}
    # LLaVA-NeXT's reference can't lay out tiles that keep their class token
    whole = tower.startswith("siglip") or (name == "llava" and rng.random() < 0.5)
    more = {
        "vision_feature_layer": rng.choice([-2, -1, 1, 3, [-2, -1], [0, 2, -1], [-3]]),
        "vision_feature_select_strategy": "full" if whole else "default",
        "multimodal_projector_bias": rng.random() < 0.7,
        "projector_hidden_act": rng.choice(["gelu", "relu"]),
        "tie_word_embeddings": rng.random() < 0.3,
    }
    parts = {"vision_config": vision, "text_config": text, "image_token_id": slot}
    if name == "llava":
        return transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(**parts, **more))
    canvases = [[32, 64], [64, 32], [64, 64]]
    config = transformers.LlavaNextConfig(**parts, **more, image_grid_pinpoints=canvases)
    return transformers.LlavaNextForConditionalGeneration(config)


def internvl(rng: random.Random, text: dict[str, Any], slot: int) -> Any:
    vision = {
        **VISION, "layer_scale_init_value": 0.4, "norm_type": rng.choice(["rms_norm", "layer_norm"]),
        "use_qk_norm": rng.random() < 0.5, "attention_bias": rng.random() < 0.5,
        "layer_norm_eps": rng.choice([1e-6, 1e-5]), "hidden_act": rng.choice(["gelu", "gelu_pytorch_tanh"]),
    }  # fmt: skip
    more = {"vision_feature_layer": rng.choice([-1, -2, 2]), "tie_word_embeddings": rng.random() < 0.5}
    config = transformers.InternVLConfig(vision_config=vision, text_config=text, image_token_id=slot, **more)
    return transformers.InternVLForConditionalGeneration(config)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ["llava", "llava_next", "internvl"])
def test_logits_agree_and_what_is_saved_loads_there(name: str, seed: int, tmp_path) -> None:
    rng = random.Random(f"{name} {seed}")
    torch.manual_seed(seed)
    template = chiasm.new(name)
    tokenizer = template.processor.tokenizer
    slot = tokenizer.token_to_id("<IMG_CONTEXT>" if name == "internvl" else "<image>")
    text = language(rng, len(tokenizer), tokenizer.eos_id)
    reference = internvl(rng, text, slot) if name == "internvl" else llava(rng, name, text, slot)
    for parameter in reference.parameters():
        if parameter.ndim <= 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model = loaded(reference.eval(), template.processor, tmp_path / "theirs")
    batch = model.processor([conversation(seed, 2)])
    given = reference_inputs("llava" if name == "internvl" else name, model, batch)
    model.save(tmp_path / "ours")
    again = type(reference).from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        expected, logits, back = reference(**given).logits, model.module(batch), again(**given).logits
    assert (logits - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max())
    assert torch.equal(back, expected)
