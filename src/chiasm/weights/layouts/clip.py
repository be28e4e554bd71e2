"""CLIP with a ViT, as transformers publishes it (``clip``); saved and in-memory names are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.models.clip import ClipConfig
from chiasm.vision.vit import ViTConfig
from chiasm.weights.layouts import towers
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.rules import Rename, prefixed
from chiasm.weights.table import Table


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    # the oldest configs repeat a part as `…_dict`, and what stands there wins
    return {**(config.get(name) or {}), **(config.get(f"{name}_dict") or {})}


def config_from(config: Mapping[str, Any]) -> ClipConfig:
    """Read a ``clip`` config.

    Args:
        config: as stored.

    Returns:
        Ours.
    """
    fields = Fields(config, {"projection_dim": 512, "logit_scale_init_value": 2.6592}, "config.json")
    return ClipConfig(
        vision=towers.vision_config(_part(config, "vision_config"), "clip_vision_model"),
        language=towers.text_config(_part(config, "text_config"), clip=True),
        embed_dim=fields.count("projection_dim"),
        init_scale=fields.number("logit_scale_init_value"),
    )


def config_to(config: ClipConfig) -> dict[str, Any]:
    """The inverse of `config_from`."""
    if not isinstance(config.vision, ViTConfig):
        raise ConfigError("config_unpublished", "a CLIP with a ResNet has no transformers layout")
    joint = {"projection_dim": config.embed_dim}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        **joint,
        "logit_scale_init_value": config.init_scale,
        "text_config": towers.text_dict(config.language) | joint,
        "vision_config": towers.vision_dict(config.vision) | joint,
    }


def table(config: ClipConfig) -> Table:
    """The whole table."""
    return Table(
        (
            Rename("logit_scale", "logit_scale"),
            Rename("visual_projection.weight", "vision_proj.weight"),
            Rename("text_projection.weight", "text_proj.weight"),
            *prefixed(towers.vision_rules(), "vision_model.", "vision."),
            *prefixed(towers.text_rules(), "text_model.", "language."),
        )
    )


LAYOUT = Layout(
    name="clip",
    family="clip",
    model_types=("clip",),
    config_type=ClipConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
