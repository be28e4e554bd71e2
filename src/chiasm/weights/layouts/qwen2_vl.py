"""Qwen2-VL and Qwen2.5-VL as published (``qwen2_vl``, ``qwen2_5_vl``).

Two configs are read: the hub's flat one (the language model's fields at the top) and the nested one that
transformers 5 writes. Two spellings of names: the hub's, which transformers still writes (``visual.…``,
``model.layers.…``), and a module's own (``model.visual.…``, ``model.language_model.…``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from chiasm.connectors.patch_merger import PatchMergerConfig
from chiasm.core.errors import ConfigError
from chiasm.language.decoder import DecoderConfig
from chiasm.models.qwen2_vl import Qwen2VLConfig
from chiasm.nn.positions import Llama3RotaryConfig, MultimodalRotaryConfig
from chiasm.vision.native import NativeViTConfig
from chiasm.weights.layouts import rotary
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.layouts.llama import decoder_config, decoder_dict, decoder_rules
from chiasm.weights.rules import Rename, Reshape, Rule, Split, prefixed
from chiasm.weights.table import Table

IDS: dict[str, Any] = {"image_token_id": 151655, "video_token_id": 151656, "tie_word_embeddings": False}
SPECIAL = {"vision_start_token_id": 151652, "vision_end_token_id": 151653}
TEXT: dict[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
}
VISION: dict[str, Any] = {
    "depth": 32,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
VISION_2 = {
    **VISION,
    "embed_dim": 1280,
    "hidden_size": 3584,
    "hidden_act": "quick_gelu",
    "mlp_ratio": 4,
}
ALIASES = (("model.visual.", "visual."), ("model.language_model.", "model."))


def language_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The language model of either form of the config.

    Args:
        config: as stored.

    Returns:
        Ours, with M-RoPE.

    Raises:
        ConfigError: rotary positions of another kind.
    """
    nested = config.get("text_config")
    text = dict(nested or config)
    rope = rotary.rope_fields(text)
    sections = tuple(rope.get("mrope_section") or (16, 24, 24))
    tied = bool(config.get("tie_word_embeddings", False) or text.get("tie_word_embeddings", False))
    plain = {"rope_theta": 1e6, **TEXT, **text, "model_type": "qwen2", "tie_word_embeddings": tied}
    language = decoder_config(plain, "text_config")
    half = language.head_width // 2
    if len(sections) != 3 or sum(sections) != half:
        raise ConfigError("config_value", f"mrope_section {list(sections)} sums to {sum(sections)}, needed is {half}")
    turning = language.rotary
    assert turning is not None
    if isinstance(turning, Llama3RotaryConfig):
        raise ConfigError("rope_unknown", "config.json asks for llama3 rotary positions with three positions a token")
    plainly = {field.name: getattr(turning, field.name) for field in fields(turning)}
    return replace(language, rotary=MultimodalRotaryConfig(**plainly, sections=sections))


def language_dict(language: DecoderConfig, model_type: str) -> dict[str, Any]:
    """The inverse of `language_config`: the nested ``text_config``.

    Raises:
        ConfigError: the decoder isn't Qwen2's, whose queries, keys and values alone have biases.
    """
    if not language.qkv_bias or language.out_bias or language.mlp_bias:
        raise ConfigError("config_unpublished", "Qwen2's queries, keys and values have biases, and nothing else has")
    turning = language.rotary
    assert isinstance(turning, MultimodalRotaryConfig)
    out = decoder_dict(language)
    del out["architectures"]
    out["rope_parameters"] = {**out["rope_parameters"], "mrope_section": list(turning.sections)}
    return out | {"model_type": model_type, "use_sliding_window": False}


def vision_rules(vision: NativeViTConfig) -> tuple[Rule, ...]:
    """The tower and the merger under ``visual.``."""
    size = vision.patch_size
    block = "visual.blocks.{i}."
    names = ("gate_proj", "up_proj", "down_proj") if vision.rms_norm else ("fc1", "fc2")
    return (
        Reshape(
            "visual.patch_embed.proj.weight",
            "vision.patch_embed.weight",
            (-1, 3, vision.frames, size, size),
            (-1, vision.patch_dim),
        ),
        Rename(block + "norm1.{p}", "vision.blocks.{i}.norm1.{p}"),
        Rename(block + "norm2.{p}", "vision.blocks.{i}.norm2.{p}"),
        Split(block + "attn.qkv.{p}", tuple(f"vision.blocks.{{i}}.attn.{n}_proj.{{p}}" for n in "qkv")),
        Rename(block + "attn.proj.{p}", "vision.blocks.{i}.attn.o_proj.{p}"),
        *(Rename(f"{block}mlp.{n}.{{p}}", f"vision.blocks.{{i}}.mlp.{n}.{{p}}") for n in names),
        Rename("visual.merger.ln_q.{p}", "connector.norm.{p}"),
        Rename("visual.merger.mlp.0.{p}", "connector.fc1.{p}"),
        Rename("visual.merger.mlp.2.{p}", "connector.fc2.{p}"),
    )


def table(config: Any) -> Table:
    """The whole table, of either family."""
    return Table((*vision_rules(config.vision), *prefixed(decoder_rules(config.language), "", "language.")), ALIASES)


def config_from(config: Mapping[str, Any]) -> Qwen2VLConfig:
    """Read a ``qwen2_vl`` config.

    Args:
        config: as stored.

    Returns:
        Ours.

    Raises:
        ConfigError: a variant that we don't build.
    """
    top = Fields(config, IDS, "config.json")
    # the hub's configs call the pixel channels in_chans
    tower = Fields(top.part("vision_config"), VISION_2, "vision_config")
    language = language_config(config)
    tower.expect("in_channels", 3)
    tower.expect("hidden_size", language.hidden_dim)
    width = tower.count("embed_dim")
    return Qwen2VLConfig(
        vision=NativeViTConfig(
            patch_size=tower.count("patch_size"),
            frames=tower.count("temporal_patch_size"),
            hidden_dim=width,
            num_layers=tower.count("depth"),
            num_heads=tower.count("num_heads"),
            mlp_dim=int(width * tower.number("mlp_ratio")),
            act=tower.get("hidden_act"),
            merge=tower.count("spatial_merge_size"),
        ),
        connector=PatchMergerConfig(
            input_dim=width, output_dim=language.hidden_dim, merge=tower.count("spatial_merge_size")
        ),
        language=language,
        image_token_id=top.count("image_token_id"),
        video_token_id=top.count("video_token_id"),
    )


def config_to(config: Qwen2VLConfig) -> dict[str, Any]:
    """The inverse of `config_from`, in the nested form.

    Raises:
        ConfigError: the MLP isn't a whole multiple of the tower's width.
    """
    vision = config.vision
    if vision.mlp_dim % vision.hidden_dim:
        raise ConfigError("config_unpublished", f"mlp_dim {vision.mlp_dim} is no multiple of {vision.hidden_dim}")
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "image_token_id": config.image_token_id,
        "video_token_id": config.video_token_id,
        **SPECIAL,
        "tie_word_embeddings": config.language.tie_embeddings,
        "text_config": language_dict(config.language, "qwen2_vl_text"),
        "vision_config": {
            "model_type": "qwen2_vl_vision",
            "depth": vision.num_layers,
            "embed_dim": vision.hidden_dim,
            "hidden_size": config.language.hidden_dim,
            "hidden_act": vision.act,
            "mlp_ratio": vision.mlp_dim // vision.hidden_dim,
            "num_heads": vision.num_heads,
            "in_channels": 3,
            "patch_size": vision.patch_size,
            "spatial_merge_size": vision.merge,
            "temporal_patch_size": vision.frames,
        },
    }


LAYOUT = Layout(
    name="qwen2_vl",
    family="qwen2_vl",
    model_types=("qwen2_vl",),
    config_type=Qwen2VLConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
