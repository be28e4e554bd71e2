"""SigLIP as transformers publishes it (``siglip``); saved and in-memory names are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.models.siglip import SiglipConfig
from chiasm.weights.layouts import towers
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.rules import Rename, Reshape, prefixed
from chiasm.weights.table import Table


def config_from(config: Mapping[str, Any]) -> SiglipConfig:
    """Read a ``siglip`` config.

    Args:
        config: as stored.

    Returns:
        Ours.

    Raises:
        ConfigError: a vision tower without its pooling head has no joint space.
    """
    text = config.get("text_config") or {}
    vision = config.get("vision_config") or {}
    Fields(vision, {"vision_use_head": True}, "vision_config").expect("vision_use_head", True)
    language = towers.text_config(text, clip=False)
    projected = Fields(text, {"projection_size": language.hidden_dim}, "text_config").count("projection_size")
    return SiglipConfig(
        vision=towers.vision_config(vision, "siglip_vision_model"), language=language, embed_dim=projected
    )


def config_to(config: SiglipConfig) -> dict[str, Any]:
    """The inverse of `config_from`."""
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "text_config": towers.text_dict(config.language) | {"projection_size": config.embed_dim},
        "vision_config": towers.vision_dict(config.vision),
    }


def table(config: SiglipConfig) -> Table:
    """The whole table."""
    return Table(
        (
            Reshape("logit_scale", "logit_scale", (1,), ()),
            Reshape("logit_bias", "logit_bias", (1,), ()),
            Rename("text_model.head.{p}", "text_proj.{p}"),
            *prefixed(towers.vision_rules(), "vision_model.", "vision."),
            *prefixed(towers.text_rules(), "text_model.", "language."),
        )
    )


LAYOUT = Layout(
    name="siglip",
    family="siglip",
    model_types=("siglip",),
    config_type=SiglipConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
