"""Phi-3 as transformers publishes it (``phi3``): LLaMA with its projections fused.

Known departures: partial rotary positions (Phi-4-mini) are refused; attention over a sliding window isn't built, see
`llama`. A reply that outgrows the original context of a 128k variant goes on with the short factors that its prompt was
read with; the reference reads everything again with the long ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.language.decoder import DecoderConfig
from chiasm.weights.layouts import llama, rotary
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.rules import Rename, Rule, Split, Tied

DEFAULTS: dict[str, Any] = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "partial_rotary_factor": 1.0,
}


def decoder_config(config: Mapping[str, Any], where: str = "config.json") -> DecoderConfig:
    """Read a ``phi3`` config.

    Args:
        config: as stored.
        where: how errors name it.

    Returns:
        Ours.

    Raises:
        ConfigError: a variant that we don't build.
    """
    fields = Fields({**config, **(config.get("rope_parameters") or {})}, DEFAULTS, where)
    if fields.number("partial_rotary_factor") != 1.0:
        raise ConfigError("config_variant", f"{where}: partial_rotary_factor is {fields.get('partial_rotary_factor')}")
    filled = {key: value for key, value in DEFAULTS.items() if config.get(key) is None}
    rope = {key: value for key, value in (config.get("rope_parameters") or {}).items() if "partial" not in key}
    stored = {**config, **filled, "model_type": "llama"} | ({"rope_parameters": rope} if rope else {})
    return llama.decoder_config(stored, where)


def decoder_dict(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `decoder_config`."""
    if (
        config.qkv_bias
        or config.out_bias
        or config.mlp_bias
        or config.head_width * config.num_heads != config.hidden_dim
    ):
        raise ConfigError("config_unpublished", "Phi-3 has no biases, and its heads fill its width")
    out = llama.decoder_dict(config)
    for key in ("attention_bias", "mlp_bias", "head_dim"):
        out.pop(key)
    rope = {**out["rope_parameters"], "partial_rotary_factor": 1.0}
    if rope["rope_type"] == "longrope":  # the class looks for it here
        out[rotary.ORIGINAL] = rope[rotary.ORIGINAL]
    end = {"pad_token_id": None}  # the class's default lies beyond small vocabularies
    return {**out, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "rope_parameters": rope, **end}


def decoder_rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """The rules between ``Phi3ForCausalLM``'s names and `Decoder`'s."""
    layer, block = "model.layers.{i}.", "blocks.{i}."
    group = config.num_heads // config.num_kv_heads
    head: Rule = Rename("lm_head.weight", "lm_head.weight")
    if config.tie_embeddings:
        head = Tied("lm_head.weight", of="model.embed_tokens.weight")
    return (
        Rename("model.embed_tokens.weight", "embed_tokens.weight"),
        Rename("model.norm.weight", "norm.weight"),
        head,
        Rename(layer + "input_layernorm.weight", block + "norm1.weight"),
        Rename(layer + "post_attention_layernorm.weight", block + "norm2.weight"),
        Split(
            layer + "self_attn.qkv_proj.weight",
            tuple(f"{block}attn.{n}_proj.weight" for n in "qkv"),
            ratio=(group, 1, 1),
        ),
        Rename(layer + "self_attn.o_proj.weight", block + "attn.o_proj.weight"),
        Split(layer + "mlp.gate_up_proj.weight", (block + "mlp.gate_proj.weight", block + "mlp.up_proj.weight")),
        Rename(layer + "mlp.down_proj.weight", block + "mlp.down_proj.weight"),
    )
