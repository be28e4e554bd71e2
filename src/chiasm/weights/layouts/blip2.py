"""BLIP-2 as transformers publishes it (``blip-2``): the second stage, over OPT or T5.

Saved and in-memory names are the same. Where a config doesn't name the picture slot, the slot is the one beyond the
words that the published tokenizers give it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.connectors.qformer import QFormerConfig
from chiasm.core.errors import ConfigError
from chiasm.models.blip2 import Blip2Config
from chiasm.vision.patches import FinalStates
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.languages import language_config, language_dict, language_rules
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.layouts.qformer import (
    qformer_config,
    qformer_dict,
    qformer_rules,
    vision_config,
    vision_dict,
    vision_rules,
)
from chiasm.weights.rules import Rename, prefixed
from chiasm.weights.table import Table

DEFAULTS = {"num_query_tokens": 32, "image_text_hidden_size": 256}
SLOTS = {"opt": 50265, "t5": 32100}


def config_from(config: Mapping[str, Any]) -> Blip2Config:
    """Read a ``blip-2`` config.

    Args:
        config: as stored.

    Returns:
        Ours.

    Raises:
        ConfigError: a part that we don't build.
    """
    if "image_token_index" not in config and "image_token_id" in config:
        config = {**config, "image_token_index": config["image_token_id"]}
    fields = Fields(config, DEFAULTS, "config.json")
    text = fields.part("text_config")
    text = {"model_type": "opt", **text}
    vision, language = vision_config(fields.part("vision_config")), language_config(text)
    slot = config.get("image_token_index")
    return Blip2Config(
        vision=vision,
        connector=qformer_config(
            fields.part("qformer_config"),
            queries=fields.count("num_query_tokens"),
            input_dim=vision.hidden_dim,
            output_dim=language.hidden_dim,
        ),
        language=language,
        image_token_id=SLOTS.get(text["model_type"], 0) if slot is None else slot,
        joint_dim=fields.count("image_text_hidden_size"),
    )


def config_to(config: Blip2Config) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: another connector, or other states than the published class reads.
    """
    qformer = qformer_dict(config.connector)
    assert isinstance(config.connector, QFormerConfig)
    if config.reading != FinalStates():
        raise ConfigError("config_unpublished", "the published class reads all final states of the tower, normalised")
    return {
        "architectures": ["Blip2ForConditionalGeneration"],
        "model_type": "blip-2",
        "num_query_tokens": config.connector.num_queries,
        "image_text_hidden_size": config.joint_dim,
        "image_token_index": config.image_token_id,
        "text_config": language_dict(config.language),
        "vision_config": {"model_type": "blip_2_vision_model", **vision_dict(config.vision)},
        "qformer_config": {"model_type": "blip_2_qformer", **qformer},
    }


def table(config: Blip2Config) -> Table:
    """The whole table."""
    return Table(
        (
            *prefixed(vision_rules(), "vision_model.", "vision."),
            *prefixed(qformer_rules(), "", "connector."),
            Rename("language_projection.{p}", "connector.proj.{p}"),
            *prefixed(language_rules(config.language), "language_model.", "language."),
        )
    )


LAYOUT = Layout(
    name="blip2",
    family="blip2",
    model_types=("blip-2",),
    config_type=Blip2Config,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
