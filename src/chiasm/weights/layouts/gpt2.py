"""GPT-2 as transformers publishes it (``gpt2``): matrices stored input first, queries, keys and values fused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.language.decoder import DecoderConfig
from chiasm.nn.additive_positions import LearnedPositionsConfig
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.rules import Drop, Rename, Rule, Split, SplitTranspose, Tied, Transpose

DEFAULTS: dict[str, Any] = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def decoder_config(config: Mapping[str, Any], where: str = "config.json") -> DecoderConfig:
    """Read a ``gpt2`` config.

    Args:
        config: as stored.
        where: how errors name it.

    Returns:
        Ours.

    Raises:
        ConfigError: a variant that we don't build.
    """
    fields = Fields(config, DEFAULTS, where)
    fields.expect("scale_attn_weights", True)
    fields.expect("scale_attn_by_inverse_layer_idx", False)
    fields.expect("add_cross_attention", False)
    heads, width = fields.count("n_head"), fields.count("n_embd")
    return DecoderConfig(
        vocab_size=fields.count("vocab_size"),
        hidden_dim=width,
        num_layers=fields.count("n_layer"),
        num_heads=heads,
        num_kv_heads=heads,
        mlp_dim=fields.count("n_inner") if fields.get("n_inner") else 4 * width,
        context_length=fields.count("n_positions"),
        norm_eps=fields.number("layer_norm_epsilon"),
        rotary=None,
        positions=LearnedPositionsConfig(),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        tie_embeddings=fields.flag("tie_word_embeddings"),
        act=fields.get("activation_function"),
        rms_norm=False,
        gated=False,
    )


def decoder_dict(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `decoder_config`."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.hidden_dim,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.mlp_dim,
        "activation_function": config.act,
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
    }


def decoder_rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """The rules between ``GPT2LMHeadModel``'s names and `Decoder`'s."""
    layer, block = "transformer.h.{i}.", "blocks.{i}."
    head: Rule = Rename("lm_head.weight", "lm_head.weight")
    if config.tie_embeddings:
        head = Tied("lm_head.weight", of="transformer.wte.weight")
    parts = {"attn.c_proj": "attn.o_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    return (
        Rename("transformer.wte.weight", "embed_tokens.weight"),
        Rename("transformer.wpe.weight", "positions.table"),
        Rename("transformer.ln_f.{p}", "norm.{p}"),
        head,
        Rename(layer + "ln_1.{p}", block + "norm1.{p}"),
        Rename(layer + "ln_2.{p}", block + "norm2.{p}"),
        SplitTranspose(layer + "attn.c_attn.weight", tuple(f"{block}attn.{n}_proj.weight" for n in "qkv")),
        Split(layer + "attn.c_attn.bias", tuple(f"{block}attn.{n}_proj.bias" for n in "qkv")),
        *(Transpose(f"{layer}{theirs}.weight", f"{block}{ours}.weight") for theirs, ours in parts.items()),
        *(Rename(f"{layer}{theirs}.bias", f"{block}{ours}.bias") for theirs, ours in parts.items()),
        Drop(layer + "attn.bias"),
        Drop(layer + "attn.masked_bias"),
    )
