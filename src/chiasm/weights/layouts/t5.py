"""T5 and its kin as transformers publishes them: ``t5`` (T5, T5 v1.1, Flan-T5) and ``mt5``.

Whether the output layer is tied: newer configs always say so, and a ``false`` in an older one also means that the
decoder's states aren't scaled. A newer one says the latter as ``scale_decoder_outputs``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.language.encoder_decoder import EncoderDecoderConfig
from chiasm.nn.position_bias import RelativeBiasConfig
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.rules import Rename, Rule, Tied
from chiasm.weights.table import Table

MODEL_TYPES = ("t5", "mt5")
_COMMON: dict[str, Any] = {
    "num_decoder_layers": None,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "tie_word_embeddings": True,
    "scale_decoder_outputs": None,
    "decoder_start_token_id": None,
    "pad_token_id": 0,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "t5": {
        **_COMMON,
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_heads": 8,
        "feed_forward_proj": "relu",
    },
    "mt5": {
        **_COMMON,
        "vocab_size": 250112,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 1024,
        "num_layers": 8,
        "num_heads": 6,
        "feed_forward_proj": "gated-gelu",
    },
}


def encoder_decoder_config(config: Mapping[str, Any], where: str = "config.json") -> EncoderDecoderConfig:
    """Read a ``t5`` or ``mt5`` config.

    Args:
        config: as stored.
        where: how errors name it.

    Returns:
        Ours.

    Raises:
        ConfigError: another model type, or a variant that we don't build.
    """
    kind = config.get("model_type", "t5")
    if kind not in MODEL_TYPES:
        raise ConfigError(
            "model_type_unknown", f"{where} has model_type {kind!r}; known here: {', '.join(MODEL_TYPES)}"
        )
    fields = Fields(config, DEFAULTS[kind], where)
    gated, _, act = str(fields.get("feed_forward_proj")).rpartition("-")
    fields.expect("feed_forward_proj", act, f"gated-{act}")
    layers, tied = fields.count("num_layers"), fields.flag("tie_word_embeddings")
    scaled = fields.get("scale_decoder_outputs")
    start = config.get("decoder_start_token_id")
    return EncoderDecoderConfig(
        vocab_size=fields.count("vocab_size"),
        hidden_dim=fields.count("d_model"),
        num_heads=fields.count("num_heads"),
        head_dim=fields.count("d_kv"),
        mlp_dim=fields.count("d_ff"),
        num_layers=layers,
        num_decoder_layers=fields.count("num_decoder_layers") if fields.get("num_decoder_layers") else layers,
        start_id=fields.get("pad_token_id") if start is None else start,
        norm_eps=fields.number("layer_norm_epsilon"),
        bias=RelativeBiasConfig(
            num_buckets=fields.count("relative_attention_num_buckets"),
            max_distance=fields.count("relative_attention_max_distance"),
        ),
        act="gelu_new" if gated and act == "gelu" else act,
        gated=bool(gated),
        tie_embeddings=tied,
        scale_logits=kind == "t5" and tied and scaled is not False,
    )


def encoder_decoder_dict(config: EncoderDecoderConfig) -> dict[str, Any]:
    """The inverse of `encoder_decoder_config`, always as ``t5``.

    Raises:
        ConfigError: an output layer that is untied and scaled.
    """
    if config.scale_logits and not config.tie_embeddings:
        raise ConfigError("config_unpublished", "no published T5 scales the input of an untied output layer")
    act = "gelu" if config.gated and config.act == "gelu_new" else config.act
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "vocab_size": config.vocab_size,
        "d_model": config.hidden_dim,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "num_layers": config.num_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "num_heads": config.num_heads,
        "relative_attention_num_buckets": config.bias.num_buckets,
        "relative_attention_max_distance": config.bias.max_distance,
        "layer_norm_epsilon": config.norm_eps,
        "feed_forward_proj": f"gated-{act}" if config.gated else act,
        "is_encoder_decoder": True,
        "decoder_start_token_id": config.start_id,
        "tie_word_embeddings": config.tie_embeddings,
        "scale_decoder_outputs": config.scale_logits,
    }


def rules(config: EncoderDecoderConfig) -> tuple[Rule, ...]:
    """The rules between ``T5ForConditionalGeneration``'s names and `EncoderDecoder`'s."""
    head: Rule = Rename("lm_head.weight", "lm_head.weight")
    if config.tie_embeddings:
        head = Tied("lm_head.weight", of="shared.weight")
    out: list[Rule] = [Rename("shared.weight", "embed_tokens.weight"), head]
    for side, parts in (("encoder", ("attn", "mlp")), ("decoder", ("attn", "cross", "mlp"))):
        layer, block = f"{side}.block.{{i}}.layer.", f"{side}_blocks.{{i}}."
        out += [
            Tied(f"{side}.embed_tokens.weight", of="shared.weight"),
            Rename(f"{side}.final_layer_norm.weight", f"{side}_norm.weight"),
            Rename(f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", f"{side}_bias.table.weight"),
        ]
        for at, part in enumerate(parts):
            norm = {"attn": "norm1", "cross": "cross_norm", "mlp": "norm2"}[part]
            out.append(Rename(f"{layer}{at}.layer_norm.weight", f"{block}{norm}.weight"))
            if part == "mlp":
                names = {"wi_0": "gate_proj", "wi_1": "up_proj", "wo": "down_proj"}
                names = names if config.gated else {"wi": "fc1", "wo": "fc2"}
                inner, outer = "DenseReluDense", "mlp"
            else:
                names = {n: f"{n}_proj" for n in "qkvo"}
                inner, outer = ("SelfAttention", "attn") if part == "attn" else ("EncDecAttention", "cross_attn")
            out += [
                Rename(f"{layer}{at}.{inner}.{theirs}.weight", f"{block}{outer}.{ours}.weight")
                for theirs, ours in names.items()
            ]
    return tuple(out)


def table(config: EncoderDecoderConfig) -> Table:
    """The whole table of a T5 on its own."""
    return Table(rules(config))
