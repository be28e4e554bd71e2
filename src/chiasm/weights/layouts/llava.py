"""LLaVA-1.5 as transformers publishes it (``llava``).

Three spellings are read: the hub's (``vision_tower.vision_model.…``, ``language_model.model.…``), what
transformers 5 writes (``vision_tower.…`` without the infix), and a module's own (``model.vision_tower.…``,
``model.language_model.…``, ``lm_head``). The second is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chiasm.connectors.mlp import MLPConnectorConfig
from chiasm.core.errors import ConfigError
from chiasm.models.llava import LlavaConfig
from chiasm.models.llava_next import LlavaNextConfig
from chiasm.vision.patches import PatchSelection
from chiasm.vision.vit import ViTConfig
from chiasm.weights.layouts import towers
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.layouts.llama import decoder_config, decoder_dict, decoder_rules
from chiasm.weights.rules import Rename, prefixed
from chiasm.weights.table import Table

DEFAULTS: dict[str, Any] = {
    "image_token_index": 32000,
    "projector_hidden_act": "gelu",
    "vision_feature_select_strategy": "default",
    "vision_feature_layer": -2,
    "multimodal_projector_bias": True,
    "tie_word_embeddings": False,
}
# What the reference builds when vision_config is absent; fields absent inside it take the tower class's defaults.
TOWER = {
    "model_type": "clip_vision_model",
    "intermediate_size": 4096,
    "hidden_size": 1024,
    "patch_size": 14,
    "image_size": 336,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
ALIASES = (
    ("vision_tower.vision_model.", "vision_tower."),
    ("model.vision_tower.vision_model.", "vision_tower."),
    ("model.vision_tower.", "vision_tower."),
    ("model.language_model.", "language_model.model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.image_newline", "image_newline"),
    ("lm_head.", "language_model.lm_head."),
)
# The same in a file and in the reference's own module, for adapters.
MODULES = (
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("image_newline", "model.image_newline"),
)


def common(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that LLaVA-1.5 and LLaVA-NeXT share, as keyword arguments of either config.

    Args:
        config: as stored.

    Returns:
        vision, connector, language, image_token_id and selection.

    Raises:
        ConfigError: another selection strategy, or layers that aren't there.
    """
    if "image_token_index" not in config and "image_token_id" in config:
        config = {**config, "image_token_index": config["image_token_id"]}
    fields = Fields(config, DEFAULTS, "config.json")
    fields.expect("vision_feature_select_strategy", "default", "full")
    vision = towers.vision_config(fields.part("vision_config") or TOWER, "clip_vision_model")
    language = decoder_config(fields.part("text_config"), "text_config")
    # as the reference: either part of the config ties LLaVA's output layer, only the whole ties LLaVA-NeXT's
    nested = language.tie_embeddings and config.get("model_type") != "llava_next"
    language = replace(language, tie_embeddings=nested or fields.flag("tie_word_embeddings"))
    keep = fields.get("vision_feature_select_strategy") == "full"
    if not vision.class_token and not keep:
        raise ConfigError(
            "config_variant", "config.json: the tower has no class token, but the first feature is to be dropped"
        )
    selection = PatchSelection(layer=_layers(fields.get("vision_feature_layer"), vision), keep_class_token=keep)
    return {
        "vision": vision,
        "connector": MLPConnectorConfig(
            input_dim=selection.width(vision),
            output_dim=language.hidden_dim,
            act=fields.get("projector_hidden_act"),
            bias=fields.flag("multimodal_projector_bias"),
        ),
        "language": language,
        "image_token_id": fields.count("image_token_index"),
        "selection": selection,
    }


def _layers(stored: Any, vision: ViTConfig) -> int | tuple[int, ...]:
    wanted = stored if isinstance(stored, list) else [stored]
    depth = vision.num_layers
    if not wanted or not all(type(each) is int and -depth - 1 <= each <= depth for each in wanted):
        raise ConfigError(
            "config_field",
            f"config.json.vision_feature_layer is {stored!r}, not one or several of {-depth - 1} to {depth}",
        )
    return tuple(wanted) if isinstance(stored, list) else wanted[0]


def common_dict(config: LlavaConfig | LlavaNextConfig) -> dict[str, Any]:
    """The inverse of `common`.

    Args:
        config: ours.

    Returns:
        The published form, without class names.

    Raises:
        ConfigError: the connector is linear.
    """
    if not isinstance(config.connector, MLPConnectorConfig):
        raise ConfigError("config_unpublished", "transformers has no LLaVA with a linear connector")
    full = config.selection.keep_class_token or not config.vision.class_token
    vision = towers.vision_dict(config.vision)
    return {
        "image_token_index": config.image_token_id,
        "image_seq_length": _sequence(config.vision, full),
        "projector_hidden_act": config.connector.act,
        "multimodal_projector_bias": config.connector.bias,
        "vision_feature_layer": layer if isinstance(layer := config.selection.layer, int) else list(layer),
        "vision_feature_select_strategy": "full" if full else "default",
        "tie_word_embeddings": config.language.tie_embeddings,
        "text_config": decoder_dict(config.language),
        "vision_config": vision,
    }


def _sequence(vision: ViTConfig, full: bool) -> int:
    return vision.grid**2 + (full and vision.class_token)


def config_from(config: Mapping[str, Any]) -> LlavaConfig:
    """Read a ``llava`` config.

    Args:
        config: as stored.

    Returns:
        Ours.

    Raises:
        ConfigError: see `common`.
    """
    return LlavaConfig(**common(config))


def config_to(config: LlavaConfig) -> dict[str, Any]:
    """The inverse of `config_from`."""
    return {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", **common_dict(config)}


def table(config: LlavaConfig | LlavaNextConfig) -> Table:
    """The whole table, LLaVA-NeXT's newline included."""
    projector = "multi_modal_projector."
    return Table(
        (
            *prefixed(towers.vision_rules(), "vision_tower.", "vision."),
            Rename(projector + "linear_1.{p}", "connector.fc1.{p}"),
            Rename(projector + "linear_2.{p}", "connector.fc2.{p}"),
            *prefixed(decoder_rules(config.language), "language_model.", "language."),
            Rename("image_newline", "image_newline"),
        ),
        ALIASES,
    )


LAYOUT = Layout(
    name="llava",
    family="llava",
    model_types=("llava",),
    config_type=LlavaConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
    modules=MODULES,
)
