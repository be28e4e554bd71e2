"""BLIP-2's retrieval form as transformers publishes it: ``blip-2`` again, class ``Blip2ForImageTextRetrieval``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.models.blip2_retrieval import Blip2RetrievalConfig
from chiasm.vision.patches import FinalStates
from chiasm.vision.vit import ViTConfig
from chiasm.weights.layouts.fields import Fields
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


def config_from(config: Mapping[str, Any]) -> Blip2RetrievalConfig:
    """Read the config of a ``Blip2ForImageTextRetrieval``.

    Args:
        config: as stored.

    Returns:
        Ours.
    """
    fields = Fields(config, DEFAULTS, "config.json")
    vision = vision_config(fields.part("vision_config"))
    connector = qformer_config(
        fields.part("qformer_config"),
        queries=fields.count("num_query_tokens"),
        input_dim=vision.hidden_dim,
        output_dim=None,
        text=True,
    )
    assert connector.text is not None
    return Blip2RetrievalConfig(
        vision=vision,
        connector=connector,
        embed_dim=fields.count("image_text_hidden_size"),
        start_id=connector.text.vocab_size - 1,
    )


def config_to(config: Blip2RetrievalConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: a first stage with its output layer for captions, which has no such form.
    """
    if config.captions or config.reading != FinalStates() or config.connector.text is None:
        raise ConfigError("config_unpublished", "the published retrieval class has no output layer for captions")
    if config.start_id != config.connector.text.vocab_size - 1:
        raise ConfigError("config_unpublished", f"[DEC] is id {config.start_id}, not the last one")
    if not isinstance(config.vision, ViTConfig):
        raise ConfigError("config_unpublished", "transformers' BLIP-2 has a ViT")
    return {
        "architectures": ["Blip2ForImageTextRetrieval"],
        "model_type": "blip-2",
        "num_query_tokens": config.connector.num_queries,
        "image_text_hidden_size": config.embed_dim,
        "vision_config": {"model_type": "blip_2_vision_model", **vision_dict(config.vision)},
        "qformer_config": {"model_type": "blip_2_qformer", **qformer_dict(config.connector)},
    }


def table(config: Blip2RetrievalConfig) -> Table:
    """The whole table."""
    return Table(
        (
            *prefixed(vision_rules(), "vision_model.", "vision."),
            *prefixed(qformer_rules(embeddings="embeddings."), "", "connector."),
            Rename("vision_projection.{p}", "vision_proj.{p}"),
            Rename("text_projection.{p}", "text_proj.{p}"),
            Rename("itm_head.{p}", "match_head.{p}"),
        )
    )


LAYOUT = Layout(
    name="blip2_retrieval",
    family="blip2_retrieval",
    model_types=("blip-2-retrieval",),
    config_type=Blip2RetrievalConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
