"""LLaMA-family language models as transformers publishes them: ``llama``, ``mistral``, ``qwen2``, ``qwen3``.

Known departure: attention over a sliding window is not built. Where a config asks for one, the context is cut to
the window, within which the two are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.language.decoder import DecoderConfig
from chiasm.nn.attention import QKNormConfig
from chiasm.weights.layouts import rotary
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.rules import Drop, Rename, Rule, Tied
from chiasm.weights.table import Table

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")

_COMMON: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "sliding_window": None,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {**_COMMON, "intermediate_size": 11008, "num_key_value_heads": None, "max_position_embeddings": 2048},
    "mistral": {
        **_COMMON,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "qwen2": {
        **_COMMON,
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
    },
    "qwen3": {
        **_COMMON,
        "vocab_size": 151936,
        "head_dim": 128,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
    },
}


def decoder_config(config: Mapping[str, Any], where: str = "config.json") -> DecoderConfig:
    """Read a language model's config.

    Args:
        config: of one of `MODEL_TYPES`; missing fields take that class's defaults.
        where: how errors name it.

    Returns:
        Our config.

    Raises:
        ConfigError: another model type, or a variant that we don't build.
    """
    model_type = config.get("model_type", "llama")
    if model_type not in MODEL_TYPES:
        raise ConfigError(
            "model_type_unknown", f"{where} has model_type {model_type!r}; known here: {', '.join(MODEL_TYPES)}"
        )
    fields = Fields(config, DEFAULTS[model_type], where)
    heads, width = fields.count("num_attention_heads"), fields.count("hidden_size")
    head_dim = None if fields.get("head_dim") in (None, width // heads) else fields.count("head_dim")
    norms = QKNormConfig(eps=fields.number("rms_norm_eps"), per_head=True) if model_type == "qwen3" else None
    trained = fields.count("max_position_embeddings")
    turning = rotary.rotary_config(config, trained, head_dim or width // heads, where)
    qkv_bias = model_type == "qwen2" or fields.flag("attention_bias")
    return DecoderConfig(
        vocab_size=fields.count("vocab_size"),
        hidden_dim=width,
        num_layers=fields.count("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=fields.count("num_key_value_heads") if fields.get("num_key_value_heads") else heads,
        head_dim=head_dim,
        mlp_dim=fields.count("intermediate_size"),
        context_length=min(rotary.context_length(turning, trained), _window(fields, model_type)),
        norm_eps=fields.number("rms_norm_eps"),
        rotary=turning,
        qkv_bias=qkv_bias,
        out_bias=model_type != "qwen2" and fields.flag("attention_bias"),
        mlp_bias=fields.flag("mlp_bias"),
        tie_embeddings=fields.flag("tie_word_embeddings"),
        act=fields.get("hidden_act"),
        qk_norm=norms,
    )


def _window(fields: Fields, model_type: str) -> int:
    # Stored null is a choice here (full attention), unlike everywhere else
    window = fields.config["sliding_window"] if "sliding_window" in fields.config else fields.defaults["sliding_window"]
    used = not model_type.startswith("qwen") or fields.flag("use_sliding_window")
    return window if used and isinstance(window, int) and window > 0 else 2**62


def decoder_dict(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `decoder_config`, in the form that transformers 5 writes.

    Args:
        config: ours.

    Returns:
        ``qwen2`` where only queries, keys and values have a bias, ``qwen3`` where queries and keys are normalised, else
        ``llama``.

    Raises:
        ConfigError: no published class has this combination of biases and norms.
    """
    if not (config.rms_norm and config.gated) or config.parallel or config.rotary is None or config.positions:
        raise ConfigError("config_unpublished", "this decoder is none of the LLaMA family: no such class fits it")
    if config.head_bias:
        raise ConfigError("config_unpublished", "the output layer of the LLaMA family has no bias")
    qwen2 = config.qkv_bias and not config.out_bias
    if (qwen2 and config.mlp_bias) or (config.out_bias and not config.qkv_bias):
        raise ConfigError("config_unpublished", "no published LLaMA-like class has this combination of biases")
    qwen3 = config.qk_norm is not None
    if qwen3 and (config.qk_norm != QKNormConfig(eps=config.norm_eps, per_head=True) or qwen2 or config.mlp_bias):
        raise ConfigError("config_unpublished", "no published LLaMA-like class has such norms of queries and keys")
    kind = "qwen3" if qwen3 else "qwen2" if qwen2 else "llama"
    out = {
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "hidden_act": config.act,
        "max_position_embeddings": rotary.stored_context(config.rotary, config.context_length),
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": rotary.rope_parameters(config.rotary),
        "tie_word_embeddings": config.tie_embeddings,
    }
    if kind != "qwen2":
        out["attention_bias"] = config.qkv_bias
    return out | ({"mlp_bias": config.mlp_bias} if kind == "llama" else {})


def decoder_rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """The rules between ``LlamaForCausalLM``'s names and `Decoder`'s.

    Args:
        config: says whether the output layer is tied.

    Returns:
        The rules, without prefixes.
    """
    layer, block = "model.layers.{i}.", "blocks.{i}."
    head: Rule = Rename("lm_head.weight", "lm_head.weight")
    if config.tie_embeddings:
        head = Tied("lm_head.weight", of="model.embed_tokens.weight")
    return (
        Rename("model.embed_tokens.weight", "embed_tokens.weight"),
        Rename("model.norm.weight", "norm.weight"),
        head,
        Rename(layer + "input_layernorm.weight", block + "norm1.weight"),
        Rename(layer + "post_attention_layernorm.weight", block + "norm2.weight"),
        *(Rename(f"{layer}self_attn.{n}_proj.{{p}}", f"{block}attn.{n}_proj.{{p}}") for n in "qkvo"),
        *(Rename(f"{layer}self_attn.{n}_norm.weight", f"{block}attn.{n}_norm.weight") for n in "qk"),
        *(Rename(f"{layer}mlp.{n}_proj.{{p}}", f"{block}mlp.{n}_proj.{{p}}") for n in ("gate", "up", "down")),
        Drop(layer + "self_attn.rotary_emb.inv_freq"),
    )


def table(config: DecoderConfig) -> Table:
    """The whole table of a language model on its own."""
    return Table(decoder_rules(config))
