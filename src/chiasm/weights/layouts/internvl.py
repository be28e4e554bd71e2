"""InternVL as transformers publishes it (``internvl``, the hub's ``-hf`` folders).

Read: the hub's and transformers' spelling (``vision_tower.…``, ``language_model.model.…``), and a module's own
(``model.vision_tower.…``, ``model.language_model.…``, ``lm_head``). The tiles' limits stand in the picture settings
there; in the config we write they stand beside the rest, where transformers ignores them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chiasm.connectors.pixel_shuffle import PixelShuffleConfig
from chiasm.core.errors import ConfigError
from chiasm.language.decoder import DecoderConfig
from chiasm.models.internvl import InternVLConfig
from chiasm.nn.attention import QKNormConfig
from chiasm.vision.patches import PatchSelection
from chiasm.vision.vit import ViTConfig
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.languages import language_config, language_dict, language_rules
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.layouts.towers import vit_of
from chiasm.weights.rules import Drop, Rename, Reshape, Rule, prefixed
from chiasm.weights.table import Table

DEFAULTS: dict[str, Any] = {
    "image_token_id": 151667,
    "downsample_ratio": 0.5,
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "default",
    "tie_word_embeddings": True,
    "min_patches": 1,
    "max_patches": 12,
    "use_thumbnail": True,
}
VISION: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "attention_bias": False,
    "use_qk_norm": False,
    "intermediate_size": 4096,
    "hidden_act": "gelu",
    "norm_type": "layer_norm",
    "layer_norm_eps": 1e-6,
    "image_size": 448,
    "patch_size": 14,
    "num_channels": 3,
    "use_mask_token": False,
    "use_absolute_position_embeddings": True,
    "layer_scale_init_value": 0.1,
    "use_mean_pooling": True,
}
ALIASES = (
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)


def vision_config(config: Mapping[str, Any]) -> ViTConfig:
    """Read the tower's part.

    Raises:
        ConfigError: a variant that we don't build.
    """
    fields = Fields(config, VISION, "vision_config")
    for key, only in (("num_channels", 3), ("use_mask_token", False), ("use_absolute_position_embeddings", True)):
        fields.expect(key, only)
    fields.expect("use_mean_pooling", True)
    fields.expect("norm_type", "layer_norm", "rms_norm")
    return vit_of(
        fields,
        norm_post=False,
        rms_norm=fields.get("norm_type") == "rms_norm",
        qkv_bias=fields.flag("attention_bias"),
        qk_norm=QKNormConfig(eps=1e-6) if fields.flag("use_qk_norm") else None,  # the reference fixes its ε
        layer_scale=fields.number("layer_scale_init_value"),
    )


def vision_dict(config: ViTConfig) -> dict[str, Any]:
    """The inverse of `vision_config`."""
    return {
        "model_type": "internvl_vision",
        "hidden_size": config.hidden_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "attention_bias": config.qkv_bias,
        "use_qk_norm": config.qk_norm is not None,
        "intermediate_size": config.mlp_dim,
        "hidden_act": config.act,
        "norm_type": "rms_norm" if config.rms_norm else "layer_norm",
        "layer_norm_eps": config.norm_eps,
        "image_size": [config.image_size] * 2,
        "patch_size": [config.patch_size] * 2,
        "num_channels": 3,
        "layer_scale_init_value": config.layer_scale,
        "use_mean_pooling": True,
    }


def vision_rules(width: int) -> tuple[Rule, ...]:
    """The tower's tensors."""
    layer, block = "encoder.layer.{i}.", "blocks.{i}."
    return (
        Reshape("embeddings.cls_token", "cls_token", (1, 1, width), (width,)),
        Reshape("embeddings.position_embeddings", "pos_embed", (1, -1, width), (-1, width)),
        Rename("embeddings.patch_embeddings.projection.{p}", "patch_embed.{p}"),
        *(Rename(f"{layer}attention.{n}_proj.{{p}}", f"{block}attn.{n}_proj.{{p}}") for n in "qkv"),
        *(Rename(f"{layer}attention.{n}_norm.weight", f"{block}attn.{n}_norm.weight") for n in "qk"),
        Rename(layer + "attention.projection_layer.{p}", block + "attn.o_proj.{p}"),
        Rename(layer + "mlp.fc1.{p}", block + "mlp.fc1.{p}"),
        Rename(layer + "mlp.fc2.{p}", block + "mlp.fc2.{p}"),
        Rename(layer + "layernorm_before.{p}", block + "norm1.{p}"),
        Rename(layer + "layernorm_after.{p}", block + "norm2.{p}"),
        Rename(layer + "lambda_1", block + "scale1"),
        Rename(layer + "lambda_2", block + "scale2"),
        Drop("embeddings.mask_token"),
    )


def config_from(config: Mapping[str, Any]) -> InternVLConfig:
    """Read an ``internvl`` config.

    Args:
        config: as stored.

    Returns:
        Ours.

    Raises:
        ConfigError: a variant that we don't build.
    """
    fields = Fields(config, DEFAULTS, "config.json")
    fields.expect("vision_feature_select_strategy", "default")
    layer = fields.get("vision_feature_layer")
    if not isinstance(layer, int):
        raise ConfigError("config_variant", f"config.json: vision_feature_layer is {layer!r}; known: one layer")
    vision = vision_config(fields.part("vision_config"))
    text = {"model_type": "qwen2", **fields.part("text_config")}
    language = language_config(text)
    assert isinstance(language, DecoderConfig)
    # transformers 5 writes the whole's choice, which alone counts; older folders leave it out and mean their part's
    whole, part = config.get("tie_word_embeddings"), bool(text.get("tie_word_embeddings", True))
    tied = part if whole is None else fields.flag("tie_word_embeddings")
    language = replace(language, tie_embeddings=tied)
    return InternVLConfig(
        vision=vision,
        connector=PixelShuffleConfig(
            input_dim=vision.hidden_dim,
            output_dim=language.hidden_dim,
            scale=round(1 / fields.number("downsample_ratio")),
            act=fields.get("projector_hidden_act"),
        ),
        language=language,
        image_token_id=fields.count("image_token_id"),
        min_tiles=fields.count("min_patches"),
        max_tiles=fields.count("max_patches"),
        thumbnail=fields.flag("use_thumbnail"),
        selection=PatchSelection(layer=layer),
    )


def config_to(config: InternVLConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: the first release's pixel shuffle, which transformers doesn't have.
    """
    if config.connector.swapped:
        raise ConfigError("config_unpublished", "transformers' InternVL doesn't swap rows and columns (ps_version v1)")
    side = config.vision.grid // config.connector.scale
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "image_token_id": config.image_token_id,
        "image_seq_length": side * side,
        "downsample_ratio": 1 / config.connector.scale,
        "projector_hidden_act": config.connector.act,
        "vision_feature_layer": config.selection.layers[0],
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": config.language.tie_embeddings,
        "min_patches": config.min_tiles,
        "max_patches": config.max_tiles,
        "use_thumbnail": config.thumbnail,
        "text_config": language_dict(config.language),
        "vision_config": vision_dict(config.vision),
    }


def table(config: InternVLConfig) -> Table:
    """The whole table."""
    projector = "multi_modal_projector."
    return Table(
        (
            *prefixed(vision_rules(config.vision.hidden_dim), "vision_tower.", "vision."),
            Rename(projector + "layer_norm.{p}", "connector.norm.{p}"),
            Rename(projector + "linear_1.{p}", "connector.fc1.{p}"),
            Rename(projector + "linear_2.{p}", "connector.fc2.{p}"),
            *prefixed(language_rules(config.language), "language_model.", "language."),
        ),
        ALIASES,
    )


LAYOUT = Layout(
    name="internvl",
    family="internvl",
    model_types=("internvl",),
    config_type=InternVLConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
