"""BLIP-2's vision tower and Q-Former as transformers names them; BLIP-2, InstructBLIP and their kin put them together.

InstructBLIP keeps the text side's embeddings inside the Q-Former, BLIP-2's retrieval form beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chiasm.connectors.choice import Connector
from chiasm.connectors.qformer import QFormerConfig, QFormerTextConfig
from chiasm.core.errors import ConfigError
from chiasm.vision.cells import CellTowerConfig
from chiasm.vision.vit import ViTConfig
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.towers import vit_of
from chiasm.weights.rules import Drop, Rename, Reshape, Rule, Split, Unsqueeze

VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 1408,
    "intermediate_size": 6144,
    "num_hidden_layers": 39,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
}
QFORMER_DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "cross_attention_frequency": 2,
    "use_qformer_text_input": False,
    "position_embedding_type": "absolute",
}


def vision_config(config: Mapping[str, Any], where: str = "vision_config") -> ViTConfig:
    """Read a ``blip_2_vision_model`` or ``instructblip_vision_model`` config.

    Args:
        config: as stored.
        where: how errors name it.

    Returns:
        Ours.

    Raises:
        ConfigError: queries without a bias.
    """
    fields = Fields(config, VISION_DEFAULTS, where)
    fields.expect("qkv_bias", True)
    return vit_of(fields)


def vision_dict(config: ViTConfig | CellTowerConfig) -> dict[str, Any]:
    """The inverse of `vision_config`.

    Raises:
        ConfigError: the tower isn't EVA's.
    """
    eva = {"class_token": True, "norm_pre": False, "patch_bias": True, "attention_pool": False}
    if not isinstance(config, ViTConfig) or replace(config, **eva) != config:  # type: ignore[arg-type]
        raise ConfigError("config_unpublished", "this tower is not EVA's as BLIP-2 publishes it: no such class fits it")
    return {
        "hidden_size": config.hidden_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_act": config.act,
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": True,
    }


def qformer_config(
    config: Mapping[str, Any], *, queries: int, input_dim: int, output_dim: int | None, text: bool | None = None
) -> QFormerConfig:
    """Read a ``qformer_config``.

    Args:
        config: as stored.
        queries: how many there are.
        input_dim: width of the picture's features.
        output_dim: width of the projection; None = there is none.
        text: whether there is a text side; None = as the config says.

    Returns:
        Ours.

    Raises:
        ConfigError: relative positions.
    """
    fields = Fields(config, QFORMER_DEFAULTS, "qformer_config")
    fields.expect("position_embedding_type", "absolute")
    reads = fields.flag("use_qformer_text_input") if text is None else text
    side = QFormerTextConfig(
        vocab_size=fields.count("vocab_size"), context_length=fields.count("max_position_embeddings")
    )
    return QFormerConfig(
        input_dim=input_dim,
        output_dim=output_dim,
        num_queries=queries,
        hidden_dim=fields.count("hidden_size"),
        num_layers=fields.count("num_hidden_layers"),
        num_heads=fields.count("num_attention_heads"),
        mlp_dim=fields.count("intermediate_size"),
        cross_every=fields.count("cross_attention_frequency"),
        act=fields.get("hidden_act"),
        norm_eps=fields.number("layer_norm_eps"),
        text=side if reads else None,
    )


def qformer_dict(config: Connector) -> dict[str, Any]:
    """The inverse of `qformer_config`.

    Raises:
        ConfigError: another connector.
    """
    if not isinstance(config, QFormerConfig):
        raise ConfigError("config_unpublished", f"no published layout holds a {type(config).__name__} here")
    out = {
        "hidden_size": config.hidden_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": config.act,
        "layer_norm_eps": config.norm_eps,
        "cross_attention_frequency": config.cross_every,
        "encoder_hidden_size": config.input_dim,
        "use_qformer_text_input": config.text is not None,
    }
    if config.text is None:
        return out
    return {**out, "vocab_size": config.text.vocab_size, "max_position_embeddings": config.text.context_length}


def vision_rules() -> tuple[Rule, ...]:
    """The tower's rules, without prefixes."""
    layer, block = "encoder.layers.{i}.", "blocks.{i}."
    return (
        Reshape("embeddings.class_embedding", "cls_token", (1, 1, -1), (-1,)),
        Rename("embeddings.patch_embedding.{p}", "patch_embed.{p}"),
        Unsqueeze("embeddings.position_embedding", "pos_embed"),
        Rename("post_layernorm.{p}", "norm_post.{p}"),
        Rename(layer + "layer_norm1.{p}", block + "norm1.{p}"),
        Rename(layer + "layer_norm2.{p}", block + "norm2.{p}"),
        Split(layer + "self_attn.qkv.{p}", tuple(f"{block}attn.{n}_proj.{{p}}" for n in "qkv")),
        Rename(layer + "self_attn.projection.{p}", block + "attn.o_proj.{p}"),
        Rename(layer + "mlp.fc1.{p}", block + "mlp.fc1.{p}"),
        Rename(layer + "mlp.fc2.{p}", block + "mlp.fc2.{p}"),
    )


def qformer_rules(*, embeddings: str = "qformer.embeddings.", norm: str = "qformer.layernorm.") -> tuple[Rule, ...]:
    """The Q-Former's rules and the queries', without prefixes; those of parts that it lacks match nothing.

    Args:
        embeddings: their prefix of the text side's embeddings.
        norm: their prefix of the norm behind the embeddings.
    """
    layer, block = "qformer.encoder.layer.{i}.", "blocks.{i}."
    rules: list[Rule] = [
        Unsqueeze("query_tokens", "queries"),
        Rename(embeddings + "word_embeddings.weight", "token_embed.weight"),
        Rename(embeddings + "position_embeddings.weight", "pos_embed"),
        Rename(norm + "{p}", "embed_norm.{p}"),
        Drop(embeddings + "position_ids"),
    ]
    for theirs, ours, after in (("attention", "attn", "norm1"), ("crossattention", "cross_attn", "cross_norm")):
        inner = layer + theirs + ".attention."
        names = {"query": "q", "key": "k", "value": "v"}
        rules += [Rename(f"{inner}{n}.{{p}}", f"{block}{ours}.{m}_proj.{{p}}") for n, m in names.items()]
        rules.append(Rename(layer + theirs + ".output.dense.{p}", f"{block}{ours}.o_proj.{{p}}"))
        rules.append(Rename(layer + theirs + ".output.LayerNorm.{p}", f"{block}{after}.{{p}}"))
    for suffix, mlp, after in (("_query", "mlp", "norm2"), ("", "text_mlp", "text_norm")):
        rules.append(Rename(f"{layer}intermediate{suffix}.dense.{{p}}", f"{block}{mlp}.fc1.{{p}}"))
        rules.append(Rename(f"{layer}output{suffix}.dense.{{p}}", f"{block}{mlp}.fc2.{{p}}"))
        rules.append(Rename(f"{layer}output{suffix}.LayerNorm.{{p}}", f"{block}{after}.{{p}}"))
    return tuple(rules)
