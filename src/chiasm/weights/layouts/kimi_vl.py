"""Kimi-VL as published (``kimi_vl``): MoonViT's fused projections turn in pairs, ours half and half."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.connectors.patch_merger import PatchMergerConfig
from chiasm.core.errors import ConfigError
from chiasm.models.kimi_vl import KimiVLConfig, moon_vit
from chiasm.weights.layouts import deepseek
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.rules import PairedRotary, Rename, Reshape, prefixed
from chiasm.weights.table import Table

VISION: dict[str, Any] = {
    "patch_size": 14,
    "init_pos_emb_height": 64,
    "init_pos_emb_width": 64,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "merge_kernel_size": [2, 2],
}


def config_from(config: Mapping[str, Any]) -> KimiVLConfig:
    """Read a ``kimi_vl`` config.

    Args:
        config: as stored.

    Returns:
        Ours.

    Raises:
        ConfigError: a variant that we don't build.
    """
    top = Fields(config, {"media_placeholder_token_id": 163605}, "config.json")
    tower = Fields(top.part("vision_config"), VISION, "vision_config")
    grid = (tower.count("init_pos_emb_height"), tower.count("init_pos_emb_width"))
    if grid[0] != grid[1]:
        raise ConfigError("config_variant", f"vision_config has positions on {grid[0]}×{grid[1]}; known: squares")
    merge = tower.count("merge_kernel_size")
    vision = moon_vit(
        tower.count("hidden_size"),
        tower.count("num_hidden_layers"),
        tower.count("num_attention_heads"),
        tower.count("intermediate_size"),
        patch=tower.count("patch_size"),
        grid=grid[0],
    )
    language = deepseek.decoder_config(top.part("text_config"), "text_config")
    return KimiVLConfig(
        vision=vision,
        connector=PatchMergerConfig(
            input_dim=vision.hidden_dim, output_dim=language.hidden_dim, merge=merge, norm_eps=1e-5
        ),
        language=language,
        image_token_id=top.count("media_placeholder_token_id"),
    )


def config_to(config: KimiVLConfig) -> dict[str, Any]:
    """The inverse of `config_from`."""
    vision = config.vision
    return {
        "architectures": ["KimiVLForConditionalGeneration"],
        "model_type": "kimi_vl",
        "media_placeholder_token_id": config.image_token_id,
        "ignore_index": -100,
        "vocab_size": config.language.vocab_size,
        "text_config": deepseek.decoder_dict(config.language),
        "vision_config": {
            "model_type": "moonvit",
            "patch_size": vision.patch_size,
            "init_pos_emb_height": vision.learned_grid,
            "init_pos_emb_width": vision.learned_grid,
            "num_attention_heads": vision.num_heads,
            "num_hidden_layers": vision.num_layers,
            "hidden_size": vision.hidden_dim,
            "intermediate_size": vision.mlp_dim,
            "merge_kernel_size": [vision.merge, vision.merge],
        },
    }


def table(config: KimiVLConfig) -> Table:
    """The whole table."""
    vision, tower = config.vision, "vision_tower."
    size, width, grid = vision.patch_size, vision.hidden_dim, vision.learned_grid
    block, ours = tower + "encoder.blocks.{i}.", "vision.blocks.{i}."
    q, k, v = (f"{ours}attn.{n}_proj.{{p}}" for n in "qkv")
    names = (("norm0", "norm1"), ("norm1", "norm2"), ("wo", "attn.o_proj"), ("mlp.fc0", "mlp.fc1"))
    return Table(
        (
            Reshape(
                tower + "patch_embed.proj.weight", "vision.patch_embed.weight", (-1, 3, size, size), (-1, 3 * size**2)
            ),
            Rename(tower + "patch_embed.proj.bias", "vision.patch_embed.bias"),
            Reshape(tower + "patch_embed.pos_emb.weight", "vision.pos_embed", (grid, grid, width), (grid**2, width)),
            PairedRotary(block + "wqkv.{p}", (q, k, v), vision.num_heads),
            *(Rename(f"{block}{a}.{{p}}", f"{ours}{b}.{{p}}") for a, b in (*names, ("mlp.fc1", "mlp.fc2"))),
            Rename(tower + "encoder.final_layernorm.{p}", "vision.norm_post.{p}"),
            Rename("multi_modal_projector.pre_norm.{p}", "connector.norm.{p}"),
            Rename("multi_modal_projector.linear_1.{p}", "connector.fc1.{p}"),
            Rename("multi_modal_projector.linear_2.{p}", "connector.fc2.{p}"),
            *prefixed(deepseek.decoder_rules(config.language), "language_model.", "language."),
        )
    )


LAYOUT = Layout(
    name="kimi_vl",
    family="kimi_vl",
    model_types=("kimi_vl",),
    config_type=KimiVLConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
