"""OPT as transformers publishes it (``opt``).

Known departure: OPT-350m, whose norms come after its sublayers and whose embeddings are narrower, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.language.decoder import DecoderConfig
from chiasm.nn.additive_positions import LearnedPositionsConfig
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.rules import Rename, Rule, Tied

DEFAULTS: dict[str, Any] = {
    "vocab_size": 50272,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "ffn_dim": 3072,
    "max_position_embeddings": 2048,
    "num_attention_heads": 12,
    "activation_function": "relu",
    "do_layer_norm_before": True,
    "_remove_final_layer_norm": False,
    "layer_norm_elementwise_affine": True,
    "enable_bias": True,
    "word_embed_proj_dim": None,
    "tie_word_embeddings": True,
}
OFFSET = 2  # rows of the position table before that of the first token


def decoder_config(config: Mapping[str, Any], where: str = "config.json") -> DecoderConfig:
    """Read an ``opt`` config.

    Args:
        config: as stored.
        where: how errors name it.

    Returns:
        Ours.

    Raises:
        ConfigError: a variant that we don't build.
    """
    fields = Fields(config, DEFAULTS, where)
    fields.expect("do_layer_norm_before", True)
    fields.expect("_remove_final_layer_norm", False)
    fields.expect("layer_norm_elementwise_affine", True)
    fields.expect("word_embed_proj_dim", None, fields.count("hidden_size"))
    heads, bias = fields.count("num_attention_heads"), fields.flag("enable_bias")
    return DecoderConfig(
        vocab_size=fields.count("vocab_size"),
        hidden_dim=fields.count("hidden_size"),
        num_layers=fields.count("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads,
        mlp_dim=fields.count("ffn_dim"),
        context_length=fields.count("max_position_embeddings"),
        norm_eps=1e-5,
        rotary=None,
        positions=LearnedPositionsConfig(offset=OFFSET),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        tie_embeddings=fields.flag("tie_word_embeddings"),
        act=fields.get("activation_function"),
        rms_norm=False,
        gated=False,
    )


def decoder_dict(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `decoder_config`."""
    return {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_dim,
        "num_hidden_layers": config.num_layers,
        "ffn_dim": config.mlp_dim,
        "max_position_embeddings": config.context_length,
        "num_attention_heads": config.num_heads,
        "activation_function": config.act,
        "enable_bias": config.qkv_bias,
        "word_embed_proj_dim": config.hidden_dim,
        "tie_word_embeddings": config.tie_embeddings,
    }


def decoder_rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """The rules between ``OPTForCausalLM``'s names and `Decoder`'s."""
    layer, block, top = "model.decoder.layers.{i}.", "blocks.{i}.", "model.decoder."
    head: Rule = Rename("lm_head.weight", "lm_head.weight")
    if config.tie_embeddings:
        head = Tied("lm_head.weight", of=top + "embed_tokens.weight")
    return (
        Rename(top + "embed_tokens.weight", "embed_tokens.weight"),
        Rename(top + "embed_positions.weight", "positions.table"),
        Rename(top + "final_layer_norm.{p}", "norm.{p}"),
        head,
        Rename(layer + "self_attn_layer_norm.{p}", block + "norm1.{p}"),
        Rename(layer + "final_layer_norm.{p}", block + "norm2.{p}"),
        *(Rename(f"{layer}self_attn.{n}_proj.{{p}}", f"{block}attn.{n}_proj.{{p}}") for n in "qkv"),
        Rename(layer + "self_attn.out_proj.{p}", block + "attn.o_proj.{p}"),
        Rename(layer + "fc1.{p}", block + "mlp.fc1.{p}"),
        Rename(layer + "fc2.{p}", block + "mlp.fc2.{p}"),
    )
