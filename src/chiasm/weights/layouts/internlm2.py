"""InternLM2 as its authors publish it (``internlm2``): LLaMA with interleaved queries, keys and values.

``attention.wqkv`` holds, for each key head, its queries, its key and its value. ``feed_forward.w1`` is the gate,
``w3`` the other branch, ``w2`` the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.language.decoder import DecoderConfig
from chiasm.weights.layouts import llama
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.rules import Drop, Interleaved, Rename, Rule, Tied

DEFAULTS: dict[str, Any] = {
    "vocab_size": 103168,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "bias": True,
    "rope_theta": 10000,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}


def decoder_config(config: Mapping[str, Any], where: str = "llm_config") -> DecoderConfig:
    """Read an ``internlm2`` config.

    Raises:
        ConfigError: biases, or rotary positions of another kind.
    """
    fields = Fields(config, DEFAULTS, where)
    fields.expect("bias", False)
    stored = {**DEFAULTS, **{key: value for key, value in config.items() if value is not None}, "model_type": "llama"}
    return llama.decoder_config(stored, where)


def decoder_dict(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `decoder_config`."""
    out = llama.decoder_dict(config)
    if out["model_type"] != "llama" or config.qkv_bias:
        raise ConfigError("config_unpublished", "InternLM2 as published has no biases")
    rope = out.pop("rope_parameters")
    kind, theta = rope.pop("rope_type"), rope.pop("rope_theta")
    if kind not in ("default", "linear", "dynamic"):
        raise ConfigError("config_unpublished", f"InternLM2 as published has no {kind!r} rotary positions")
    for key in ("attention_bias", "mlp_bias", "head_dim"):
        out.pop(key)
    return out | {
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "bias": False,
        "rope_theta": theta,
        "rope_scaling": None if kind == "default" else {"type": kind, **rope},
        "attn_implementation": "eager",
    }


def decoder_rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """The rules between ``InternLM2ForCausalLM``'s names and `Decoder`'s."""
    layer, block = "model.layers.{i}.", "blocks.{i}."
    head: Rule = Rename("output.weight", "lm_head.weight")
    if config.tie_embeddings:
        head = Tied("output.weight", of="model.tok_embeddings.weight")
    q, k, v = (f"{block}attn.{n}_proj.weight" for n in "qkv")
    group = config.num_heads // config.num_kv_heads
    return (
        Rename("model.tok_embeddings.weight", "embed_tokens.weight"),
        Rename("model.norm.weight", "norm.weight"),
        head,
        Rename(layer + "attention_norm.weight", block + "norm1.weight"),
        Rename(layer + "ffn_norm.weight", block + "norm2.weight"),
        Interleaved(layer + "attention.wqkv.weight", (q, k, v), config.num_kv_heads, group),
        Rename(layer + "attention.wo.weight", block + "attn.o_proj.weight"),
        *(
            Rename(f"{layer}feed_forward.{theirs}.weight", f"{block}mlp.{ours}_proj.weight")
            for theirs, ours in (("w1", "gate"), ("w3", "up"), ("w2", "down"))
        ),
        Drop(layer + "attention.rotary_emb.inv_freq"),
    )
