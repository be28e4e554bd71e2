"""The towers of CLIP and SigLIP as transformers names them; other layouts put a prefix before these rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.language.text import EndOfTextPool, LastTokenPool, TextEncoderConfig
from chiasm.models.assembly import vit
from chiasm.vision.cells import CellTowerConfig
from chiasm.vision.vit import ViTConfig
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.rules import Drop, Rename, Rule, Split

_VISION: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
}
VISION_DEFAULTS: dict[str, dict[str, Any]] = {
    "clip_vision_model": {**_VISION, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip_vision_model": {
        **_VISION,
        "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "vision_use_head": True,
    },
}
CLIP_TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
SIGLIP_TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "projection_size": None,
}
# The end-of-text id that CLIP's first ports stored by mistake; it means "the row's largest id" ever since.
_LARGEST_ID = 2


def vision_config(config: Mapping[str, Any], kind: str, where: str = "vision_config") -> ViTConfig:
    """Read a vision tower's config.

    Args:
        config: as stored; its own ``model_type``, where given, wins over `kind`.
        kind: ``clip_vision_model`` or ``siglip_vision_model``.
        where: how errors name it.

    Returns:
        Ours.

    Raises:
        ConfigError: another tower.
    """
    kind = config.get("model_type") or kind
    if kind not in VISION_DEFAULTS:
        known = ", ".join(VISION_DEFAULTS)
        raise ConfigError("model_type_unknown", f"{where} has model_type {kind!r}; known here: {known}")
    fields, clip = Fields(config, VISION_DEFAULTS[kind], where), kind == "clip_vision_model"
    fields.expect("num_channels", 3)
    pool = not clip and fields.flag("vision_use_head")
    return vit_of(fields, class_token=clip, norm_pre=clip, patch_bias=not clip, attention_pool=pool)


def vit_of(fields: Fields, **traits: Any) -> ViTConfig:
    """A ViT whose shape stands in a config under the names that most published ones have; `traits` as for `vit`."""
    return vit(
        fields.count("image_size"),
        fields.count("patch_size"),
        fields.count("hidden_size"),
        fields.count("num_hidden_layers"),
        fields.count("num_attention_heads"),
        fields.count("intermediate_size"),
        act=fields.get("hidden_act"),
        norm_eps=fields.number("layer_norm_eps"),
        **traits,
    )


def vision_dict(config: ViTConfig | CellTowerConfig) -> dict[str, Any]:
    """The inverse of `vision_config`.

    Args:
        config: ours.

    Returns:
        The published form.

    Raises:
        ConfigError: the tower is neither CLIP's nor SigLIP's.
    """
    if not isinstance(config, ViTConfig):
        raise ConfigError("config_unpublished", "this tower is no ViT: no published class fits it")
    traits = (config.class_token, config.norm_pre, not config.patch_bias)
    if len(set(traits)) != 1 or (config.class_token and config.attention_pool):
        raise ConfigError("config_unpublished", "this ViT is neither CLIP's nor SigLIP's: no published class fits it")
    out = {
        "model_type": "clip_vision_model" if config.class_token else "siglip_vision_model",
        "hidden_size": config.hidden_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_channels": 3,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_act": config.act,
        "layer_norm_eps": config.norm_eps,
    }
    return out | ({} if config.class_token else {"vision_use_head": config.attention_pool})


def text_config(config: Mapping[str, Any], *, clip: bool, where: str = "text_config") -> TextEncoderConfig:
    """Read a text tower's config.

    Args:
        config: as stored.
        clip: CLIP's tower, else SigLIP's.
        where: how errors name it.

    Returns:
        Ours.
    """
    fields = Fields(config, CLIP_TEXT_DEFAULTS if clip else SIGLIP_TEXT_DEFAULTS, where)
    pool: EndOfTextPool | LastTokenPool = LastTokenPool()
    if clip:
        end = fields.count("eos_token_id")
        pool = EndOfTextPool(token_id=None if end == _LARGEST_ID else end)
    return TextEncoderConfig(
        vocab_size=fields.count("vocab_size"),
        context_length=fields.count("max_position_embeddings"),
        hidden_dim=fields.count("hidden_size"),
        num_layers=fields.count("num_hidden_layers"),
        num_heads=fields.count("num_attention_heads"),
        mlp_dim=fields.count("intermediate_size"),
        act=fields.get("hidden_act"),
        norm_eps=fields.number("layer_norm_eps"),
        pool=pool,
    )


def text_dict(config: TextEncoderConfig) -> dict[str, Any]:
    """The inverse of `text_config`."""
    out: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "max_position_embeddings": config.context_length,
        "hidden_act": config.act,
        "layer_norm_eps": config.norm_eps,
    }
    if isinstance(config.pool, LastTokenPool):
        return {"model_type": "siglip_text_model", **out}
    return {
        "model_type": "clip_text_model",
        **out,
        "eos_token_id": _LARGEST_ID if config.pool.token_id is None else config.pool.token_id,
    }


def encoder_rules() -> tuple[Rule, ...]:
    """The transformer layers that both kinds of tower share."""
    layer, block = "encoder.layers.{i}.", "blocks.{i}."
    return (
        Rename(layer + "layer_norm1.{p}", block + "norm1.{p}"),
        Rename(layer + "layer_norm2.{p}", block + "norm2.{p}"),
        *(Rename(f"{layer}self_attn.{n}_proj.{{p}}", f"{block}attn.{n}_proj.{{p}}") for n in "qkv"),
        Rename(layer + "self_attn.out_proj.{p}", block + "attn.o_proj.{p}"),
        Rename(layer + "mlp.fc1.{p}", block + "mlp.fc1.{p}"),
        Rename(layer + "mlp.fc2.{p}", block + "mlp.fc2.{p}"),
    )


def vision_rules() -> tuple[Rule, ...]:
    """A vision tower's rules; those of parts that a tower lacks match nothing."""
    return (
        Rename("embeddings.class_embedding", "cls_token"),
        Rename("embeddings.patch_embedding.{p}", "patch_embed.{p}"),
        Rename("embeddings.position_embedding.weight", "pos_embed"),
        Rename("pre_layrnorm.{p}", "norm_pre.{p}"),  # the reference's spelling
        *encoder_rules(),
        Rename("post_layernorm.{p}", "norm_post.{p}"),
        Rename("head.probe", "pool.probe"),
        Split("head.attention.in_proj_{p}", tuple(f"pool.attn.{n}_proj.{{p}}" for n in "qkv")),
        Rename("head.attention.out_proj.{p}", "pool.attn.o_proj.{p}"),
        Rename("head.layernorm.{p}", "pool.norm.{p}"),
        Rename("head.mlp.fc1.{p}", "pool.mlp.fc1.{p}"),
        Rename("head.mlp.fc2.{p}", "pool.mlp.fc2.{p}"),
        Drop("embeddings.position_ids"),
    )


def text_rules() -> tuple[Rule, ...]:
    """A text tower's rules."""
    return (
        Rename("embeddings.token_embedding.weight", "token_embed.weight"),
        Rename("embeddings.position_embedding.weight", "pos_embed"),
        *encoder_rules(),
        Rename("final_layer_norm.{p}", "norm.{p}"),
        Drop("embeddings.position_ids"),
    )
