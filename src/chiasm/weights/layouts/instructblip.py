"""InstructBLIP as transformers publishes it (``instructblip``), over LLaMA-family models or T5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.models.instructblip import InstructBlipConfig
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

SLOTS = {"llama": 32000, "t5": 32100}


def config_from(config: Mapping[str, Any]) -> InstructBlipConfig:
    """Read an ``instructblip`` config.

    Args:
        config: as stored.

    Returns:
        Ours.

    Raises:
        ConfigError: a part that we don't build.
    """
    slot = config.get("image_token_index", config.get("image_token_id"))
    fields = Fields(config, {"num_query_tokens": 32}, "config.json")
    text = {"model_type": "opt", **fields.part("text_config")}
    vision, language = vision_config(fields.part("vision_config")), language_config(text)
    connector = qformer_config(
        fields.part("qformer_config"),
        queries=fields.count("num_query_tokens"),
        input_dim=vision.hidden_dim,
        output_dim=language.hidden_dim,
        text=True,
    )
    slot = SLOTS.get(text["model_type"], 0) if slot is None else slot
    return InstructBlipConfig(vision=vision, connector=connector, language=language, image_token_id=slot)


def config_to(config: InstructBlipConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: other states than the published class reads, or a Q-Former without its text side.
    """
    if config.reading != FinalStates() or config.connector.text is None:
        raise ConfigError("config_unpublished", "the published class reads all final states and the instruction")
    qformer = qformer_dict(config.connector)
    qformer.pop("use_qformer_text_input")
    return {
        "architectures": ["InstructBlipForConditionalGeneration"],
        "model_type": "instructblip",
        "num_query_tokens": config.connector.num_queries,
        "image_token_index": config.image_token_id,
        "text_config": language_dict(config.language),
        "vision_config": {"model_type": "instructblip_vision_model", **vision_dict(config.vision)},
        "qformer_config": {"model_type": "instructblip_qformer", **qformer},
    }


def table(config: InstructBlipConfig) -> Table:
    """The whole table."""
    return Table(
        (
            *prefixed(vision_rules(), "vision_model.", "vision."),
            *prefixed(qformer_rules(norm="qformer.embeddings.layernorm."), "", "connector."),
            Rename("language_projection.{p}", "connector.proj.{p}"),
            *prefixed(language_rules(config.language), "language_model.", "language."),
        )
    )


LAYOUT = Layout(
    name="instructblip",
    family="instructblip",
    model_types=("instructblip",),
    config_type=InstructBlipConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
