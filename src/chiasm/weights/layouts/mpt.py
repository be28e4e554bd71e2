"""MPT as transformers publishes it (``mpt``): ALiBi, no biases, queries, keys and values fused, tied output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.language.decoder import DecoderConfig
from chiasm.nn.position_bias import AlibiConfig
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.rules import Rename, Rule, Split, Tied

DEFAULTS: dict[str, Any] = {
    "vocab_size": 50368,
    "d_model": 2048,
    "n_layers": 24,
    "n_heads": 16,
    "expansion_ratio": 4,
    "max_seq_len": 2048,
    "layer_norm_epsilon": 1e-5,
    "no_bias": True,
    "logit_scale": None,
    "tie_word_embeddings": True,
}
ATTENTION: dict[str, Any] = {
    "attn_type": "multihead_attention",
    "alibi": True,
    "alibi_bias_max": 8,
    "clip_qkv": None,
    "qk_ln": False,
    "prefix_lm": False,
    "softmax_scale": None,
}


def decoder_config(config: Mapping[str, Any], where: str = "config.json") -> DecoderConfig:
    """Read an ``mpt`` config.

    Args:
        config: as stored.
        where: how errors name it.

    Returns:
        Ours.

    Raises:
        ConfigError: a variant that we don't build.
    """
    fields = Fields(config, DEFAULTS, where)
    attention = Fields(fields.part("attn_config"), ATTENTION, f"{where}: attn_config")
    fields.expect("no_bias", True)
    fields.expect("logit_scale", None)
    # files say "alibi": false too, but the published class uses ALiBi whatever they say
    for key in ("attn_type", "clip_qkv", "qk_ln", "prefix_lm", "softmax_scale"):
        attention.expect(key, ATTENTION[key])
    heads, width = fields.count("n_heads"), fields.count("d_model")
    return DecoderConfig(
        vocab_size=fields.count("vocab_size"),
        hidden_dim=width,
        num_layers=fields.count("n_layers"),
        num_heads=heads,
        num_kv_heads=heads,
        mlp_dim=fields.count("expansion_ratio") * width,
        context_length=fields.count("max_seq_len"),
        norm_eps=fields.number("layer_norm_epsilon"),
        rotary=None,
        positions=AlibiConfig(max_bias=attention.number("alibi_bias_max")),
        tie_embeddings=fields.flag("tie_word_embeddings"),
        act="gelu",
        rms_norm=False,
        norm_bias=False,
        gated=False,
    )


def decoder_dict(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `decoder_config`."""
    assert isinstance(config.positions, AlibiConfig)
    return {
        "architectures": ["MptForCausalLM"],
        "model_type": "mpt",
        "vocab_size": config.vocab_size,
        "d_model": config.hidden_dim,
        "n_layers": config.num_layers,
        "n_heads": config.num_heads,
        "expansion_ratio": config.mlp_dim // config.hidden_dim,
        "max_seq_len": config.context_length,
        "layer_norm_epsilon": config.norm_eps,
        "attn_config": {"alibi": True, "alibi_bias_max": int(config.positions.max_bias)},
        "tie_word_embeddings": config.tie_embeddings,
    }


def decoder_rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """The rules between ``MptForCausalLM``'s names and `Decoder`'s."""
    layer, block = "transformer.blocks.{i}.", "blocks.{i}."
    head: Rule = Rename("lm_head.weight", "lm_head.weight")
    if config.tie_embeddings:
        head = Tied("lm_head.weight", of="transformer.wte.weight")
    return (
        Rename("transformer.wte.weight", "embed_tokens.weight"),
        Rename("transformer.norm_f.weight", "norm.weight"),
        head,
        Rename(layer + "norm_1.weight", block + "norm1.weight"),
        Rename(layer + "norm_2.weight", block + "norm2.weight"),
        Split(layer + "attn.Wqkv.weight", tuple(f"{block}attn.{n}_proj.weight" for n in "qkv")),
        Rename(layer + "attn.out_proj.weight", block + "attn.o_proj.weight"),
        Rename(layer + "ffn.up_proj.weight", block + "mlp.fc1.weight"),
        Rename(layer + "ffn.down_proj.weight", block + "mlp.fc2.weight"),
    )
