"""ALIGN as transformers publishes it (``align``); saved and in-memory names are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.language.bert import BertConfig
from chiasm.models.align import AlignConfig
from chiasm.vision.efficientnet import EfficientNetConfig, efficientnet
from chiasm.weights.layouts import bert
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.rules import Rename, Rule, prefixed
from chiasm.weights.table import Table

# EfficientNet's own table, which every published ALIGN has; another one is refused.
_STAGES: dict[str, list[int]] = {
    "kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "in_channels": [32, 16, 24, 40, 80, 112, 192],
    "out_channels": [16, 24, 40, 80, 112, 192, 320],
    "depthwise_padding": [],
    "strides": [1, 2, 2, 2, 1, 2, 1],
    "num_block_repeats": [1, 2, 2, 3, 3, 4, 1],
    "expand_ratios": [1, 6, 6, 6, 6, 6, 6],
}
_VISION: dict[str, Any] = {
    **_STAGES,
    "image_size": 600,
    "width_coefficient": 2.0,
    "depth_coefficient": 3.1,
    "depth_divisor": 8,
    "squeeze_expansion_ratio": 0.25,
    "hidden_act": "swish",
    "hidden_dim": 2560,
    "pooling_type": "mean",
    "batch_norm_eps": 1e-3,
}


def config_from(config: Mapping[str, Any]) -> AlignConfig:
    """Read an ``align`` config.

    Raises:
        ConfigError: an EfficientNet that isn't one, or a joint space that isn't the picture tower's.
    """
    top = Fields(config, {"projection_dim": 640, "temperature_init_value": 1.0}, "config.json")
    fields, text = Fields(top.part("vision_config"), _VISION, "vision_config"), top.part("text_config")
    for name, known in _STAGES.items():
        fields.expect(name, known)
    fields.expect("depth_divisor", 8)
    fields.expect("pooling_type", "mean")
    fields.expect("batch_norm_eps", 1e-3)
    fields.expect("hidden_act", "swish", "silu")
    vision = efficientnet(
        fields.count("image_size"),
        fields.number("width_coefficient"),
        fields.number("depth_coefficient"),
        fields.count("hidden_dim"),
        squeeze=fields.number("squeeze_expansion_ratio"),
        head=False,
        fixed_padding=True,
    )
    if top.count("projection_dim") != vision.output_dim:
        widths = f"{top.count('projection_dim')}, the picture tower's is {vision.output_dim}"
        raise ConfigError("config_variant", f"config.json.projection_dim is {widths}")
    language: BertConfig = bert.config_from({**text, "model_type": "bert"})
    return AlignConfig(vision=vision, language=language, init_temperature=top.number("temperature_init_value"))


def config_to(config: AlignConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: an EfficientNet that the port can't hold.
    """
    vision = config.vision
    if not isinstance(vision, EfficientNetConfig):
        raise ConfigError("config_unpublished", "transformers' ALIGN has a full EfficientNet")
    if vision.head or not vision.fixed_padding or vision.squeeze is None or vision.act != "silu":
        raise ConfigError("config_unpublished", "transformers' ALIGN has a full EfficientNet without its head")
    text = {**bert.config_to(config.language), "model_type": "align_text_model"}
    del text["architectures"]
    return {
        "architectures": ["AlignModel"],
        "model_type": "align",
        "projection_dim": vision.output_dim,
        "temperature_init_value": config.init_temperature,
        "text_config": text,
        "vision_config": {
            "model_type": "align_vision_model",
            "image_size": vision.image_size,
            "width_coefficient": vision.width,
            "depth_coefficient": vision.depth,
            "hidden_dim": vision.hidden_dim,
            "squeeze_expansion_ratio": vision.squeeze,
        },
    }


def _vision_rules() -> tuple[Rule, ...]:
    theirs, ours = "encoder.blocks.{i}.", "blocks.{i}."
    names = {
        "expansion.expand_conv": "expand.conv",
        "expansion.expand_bn": "expand.bn",
        "depthwise_conv.depthwise_conv": "depthwise.conv",
        "depthwise_conv.depthwise_norm": "depthwise.bn",
        "squeeze_excite.reduce": "squeeze.reduce",
        "squeeze_excite.expand": "squeeze.expand",
        "projection.project_conv": "project.conv",
        "projection.project_bn": "project.bn",
    }
    return (
        Rename("embeddings.convolution.weight", "stem.conv.weight"),
        Rename("embeddings.batchnorm.{p}", "stem.bn.{p}"),
        *(Rename(f"{theirs}{their}.{{p}}", f"{ours}{our}.{{p}}") for their, our in names.items()),
    )


def table(config: AlignConfig) -> Table:
    """The whole table."""
    return Table(
        (
            *prefixed(_vision_rules(), "vision_model.", "vision."),
            *prefixed(bert.rules(config.language), "text_model.", "language."),
            Rename("text_projection.{p}", "text_proj.{p}"),
            Rename("temperature", "temperature"),
        )
    )


LAYOUT = Layout(
    name="align",
    family="align",
    model_types=("align",),
    config_type=AlignConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
