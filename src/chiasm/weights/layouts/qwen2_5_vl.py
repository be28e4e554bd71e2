"""Qwen2.5-VL as published (``qwen2_5_vl``); the same forms and spellings as ``qwen2_vl``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.connectors.patch_merger import PatchMergerConfig
from chiasm.core.errors import ConfigError
from chiasm.models.qwen2_5_vl import Qwen25VLConfig
from chiasm.vision.native import NativeViTConfig, WindowConfig
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.layouts.qwen2_vl import IDS, SPECIAL, VISION, language_config, language_dict, table

# transformers' class says 3584 and 4 where the published checkpoints say 1280 and 2 and always spell both out
DEFAULTS: dict[str, Any] = {
    **VISION,
    "hidden_size": 3584,
    "hidden_act": "silu",
    "intermediate_size": 3420,
    "tokens_per_second": 4,
    "window_size": 112,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
}


def config_from(config: Mapping[str, Any]) -> Qwen25VLConfig:
    """Read a ``qwen2_5_vl`` config.

    Args:
        config: as stored.

    Returns:
        Ours.

    Raises:
        ConfigError: a variant that we don't build.
    """
    top = Fields(config, IDS, "config.json")
    tower = Fields(top.part("vision_config"), DEFAULTS, "vision_config")
    language = language_config(config)
    tower.expect("in_channels", 3)
    tower.expect("out_hidden_size", language.hidden_dim)
    width, patch, merge = tower.count("hidden_size"), tower.count("patch_size"), tower.count("spatial_merge_size")
    side = tower.count("window_size")
    if side % (patch * merge):
        raise ConfigError("config_value", f"window_size {side} is no multiple of a visual token, {patch * merge}")
    return Qwen25VLConfig(
        vision=NativeViTConfig(
            patch_size=patch,
            frames=tower.count("temporal_patch_size"),
            hidden_dim=width,
            num_layers=tower.count("depth"),
            num_heads=tower.count("num_heads"),
            mlp_dim=tower.count("intermediate_size"),
            act=tower.get("hidden_act"),
            merge=merge,
            rms_norm=True,
            window=WindowConfig(side=side, full_layers=tuple(tower.get("fullatt_block_indexes"))),
        ),
        connector=PatchMergerConfig(input_dim=width, output_dim=language.hidden_dim, merge=merge, rms_norm=True),
        language=language,
        image_token_id=top.count("image_token_id"),
        video_token_id=top.count("video_token_id"),
        tokens_per_second=tower.number("tokens_per_second"),
    )


def config_to(config: Qwen25VLConfig) -> dict[str, Any]:
    """The inverse of `config_from`, in the nested form."""
    vision = config.vision
    window = vision.window or WindowConfig(full_layers=tuple(range(vision.num_layers)))
    per_second = config.tokens_per_second
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "image_token_id": config.image_token_id,
        "video_token_id": config.video_token_id,
        **SPECIAL,
        "tie_word_embeddings": config.language.tie_embeddings,
        "text_config": language_dict(config.language, "qwen2_5_vl_text"),
        "vision_config": {
            "model_type": "qwen2_5_vl_vision",
            "depth": vision.num_layers,
            "hidden_size": vision.hidden_dim,
            "hidden_act": vision.act,
            "intermediate_size": vision.mlp_dim,
            "num_heads": vision.num_heads,
            "in_channels": 3,
            "patch_size": vision.patch_size,
            "spatial_merge_size": vision.merge,
            "temporal_patch_size": vision.frames,
            "tokens_per_second": int(per_second) if per_second == int(per_second) else per_second,
            "window_size": window.side,
            "out_hidden_size": config.language.hidden_dim,
            "fullatt_block_indexes": list(window.full_layers),
        },
    }


LAYOUT = Layout(
    name="qwen2_5_vl",
    family="qwen2_5_vl",
    model_types=("qwen2_5_vl",),
    config_type=Qwen25VLConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
