"""InternVL as its authors publish it (``internvl_chat``): one layout for each kind of language model.

The tower stands under ``vision_model.``, the connector under ``mlp1.{0,1,3}``, the language model under
``language_model.`` with its own names: InternLM2's, or transformers' of Qwen2, Llama and Phi-3. The config holds the
tiles' limits, but not the picture slot's id, which follows from the vocabulary unless our writer added it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from chiasm.connectors.pixel_shuffle import PixelShuffleConfig
from chiasm.core.errors import ConfigError
from chiasm.models.internvl import InternVLConfig
from chiasm.nn.attention import QKNormConfig
from chiasm.vision.patches import PatchSelection
from chiasm.vision.vit import ViTConfig
from chiasm.weights.layouts import internlm2, llama, phi3
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.layouts.towers import vit_of
from chiasm.weights.rules import Rename, Reshape, Rule, Split, prefixed
from chiasm.weights.table import Table

DEFAULTS: dict[str, Any] = {
    "downsample_ratio": 0.5,
    "select_layer": -1,
    "ps_version": "v1",
    "min_dynamic_patch": 1,
    "max_dynamic_patch": 6,
    "use_thumbnail": False,
    "force_image_size": None,
    "image_token_id": None,
}
VISION: dict[str, Any] = {
    "num_channels": 3,
    "patch_size": 14,
    "image_size": 224,
    "qkv_bias": False,
    "hidden_size": 3200,
    "num_attention_heads": 25,
    "intermediate_size": 12800,
    "qk_normalization": True,
    "num_hidden_layers": 48,
    "hidden_act": "gelu",
    "norm_type": "rms_norm",
    "layer_norm_eps": 1e-6,
    "initializer_factor": 0.1,
}
# The slot's id in the published vocabularies, by the language model's vocabulary size.
SLOTS = {92553: 92546, 151655: 151648, 32020: 32013, 64007: 64000, 128265: 128258, 151674: 151667}
FORMS: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {
    "internlm2": (internlm2.decoder_config, internlm2.decoder_dict, internlm2.decoder_rules),
    "llama": (llama.decoder_config, llama.decoder_dict, llama.decoder_rules),
    "phi3": (phi3.decoder_config, phi3.decoder_dict, phi3.decoder_rules),
}


def vision_config(config: Mapping[str, Any], image_size: int | None) -> ViTConfig:
    """Read the tower's part; `image_size` is what its positions are stretched to, the stored size where None."""
    fields = Fields(config, VISION, "vision_config")
    fields.expect("num_channels", 3)
    fields.expect("norm_type", "layer_norm", "rms_norm")
    stored = fields.count("image_size")
    if image_size is not None and image_size != stored:
        raise ConfigError(
            "config_variant", f"config.json: force_image_size is {image_size}, the tower's positions are of {stored}"
        )
    return vit_of(
        fields,
        norm_post=False,
        rms_norm=fields.get("norm_type") == "rms_norm",
        qkv_bias=fields.flag("qkv_bias"),
        qk_norm=QKNormConfig(eps=fields.number("layer_norm_eps")) if fields.flag("qk_normalization") else None,
        layer_scale=fields.number("initializer_factor"),
    )


def vision_dict(config: ViTConfig) -> dict[str, Any]:
    """The inverse of `vision_config`."""
    return {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",
        "num_channels": 3,
        "patch_size": config.patch_size,
        "image_size": config.image_size,
        "qkv_bias": config.qkv_bias,
        "hidden_size": config.hidden_dim,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "qk_normalization": config.qk_norm is not None,
        "num_hidden_layers": config.num_layers,
        "hidden_act": config.act,
        "norm_type": "rms_norm" if config.rms_norm else "layer_norm",
        "layer_norm_eps": config.norm_eps,
        "initializer_factor": config.layer_scale,
        "use_flash_attn": False,
    }


def vision_rules(width: int) -> tuple[Rule, ...]:
    """The tower's tensors."""
    layer, block = "encoder.layers.{i}.", "blocks.{i}."
    return (
        Reshape("embeddings.class_embedding", "cls_token", (1, 1, width), (width,)),
        Reshape("embeddings.position_embedding", "pos_embed", (1, -1, width), (-1, width)),
        Rename("embeddings.patch_embedding.{p}", "patch_embed.{p}"),
        Split(layer + "attn.qkv.{p}", tuple(f"{block}attn.{n}_proj.{{p}}" for n in "qkv")),
        *(Rename(f"{layer}attn.{n}_norm.weight", f"{block}attn.{n}_norm.weight") for n in "qk"),
        Rename(layer + "attn.proj.{p}", block + "attn.o_proj.{p}"),
        Rename(layer + "mlp.fc1.{p}", block + "mlp.fc1.{p}"),
        Rename(layer + "mlp.fc2.{p}", block + "mlp.fc2.{p}"),
        Rename(layer + "norm1.{p}", block + "norm1.{p}"),
        Rename(layer + "norm2.{p}", block + "norm2.{p}"),
        Rename(layer + "ls1", block + "scale1"),
        Rename(layer + "ls2", block + "scale2"),
    )


def config_from(config: Mapping[str, Any]) -> InternVLConfig:
    """Read an ``internvl_chat`` config.

    Args:
        config: as stored.

    Returns:
        Ours.

    Raises:
        ConfigError: a variant that we don't build.
    """
    fields = Fields(config, DEFAULTS, "config.json")
    text = fields.part("llm_config")
    form = text.get("model_type", "llama")
    language = FORMS[form if form in FORMS else "llama"][0](text, "llm_config")
    vision = vision_config(fields.part("vision_config"), fields.get("force_image_size"))
    slot = fields.get("image_token_id")
    if slot is None:
        slot = SLOTS.get(language.vocab_size, language.vocab_size - 7)
    return InternVLConfig(
        vision=vision,
        connector=PixelShuffleConfig(
            input_dim=vision.hidden_dim,
            output_dim=language.hidden_dim,
            scale=round(1 / fields.number("downsample_ratio")),
            swapped=fields.get("ps_version") == "v1",
        ),
        language=language,
        image_token_id=slot,
        min_tiles=fields.count("min_dynamic_patch"),
        max_tiles=fields.count("max_dynamic_patch"),
        thumbnail=fields.flag("use_thumbnail"),
        selection=PatchSelection(layer=fields.get("select_layer")),
    )


def config_to(form: str, config: InternVLConfig) -> dict[str, Any]:
    """The inverse of `config_from`, for one kind of language model.

    Raises:
        ConfigError: the language model isn't of that kind.
    """
    if config.connector.act != "gelu":
        raise ConfigError("config_unpublished", "InternVL's own layout has a GELU in its connector")
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "downsample_ratio": 1 / config.connector.scale,
        "dynamic_image_size": True,
        "force_image_size": config.vision.image_size,
        "image_token_id": config.image_token_id,
        "min_dynamic_patch": config.min_tiles,
        "max_dynamic_patch": config.max_tiles,
        "ps_version": "v1" if config.connector.swapped else "v2",
        "select_layer": config.selection.layers[0],
        "use_thumbnail": config.thumbnail,
        "tie_word_embeddings": config.language.tie_embeddings,
        "llm_config": FORMS[form][1](config.language),
        "vision_config": vision_dict(config.vision),
    }


def table(form: str, config: InternVLConfig) -> Table:
    """The whole table, for one kind of language model."""
    return Table(
        (
            *prefixed(vision_rules(config.vision.hidden_dim), "vision_model.", "vision."),
            Rename("mlp1.0.{p}", "connector.norm.{p}"),
            Rename("mlp1.1.{p}", "connector.fc1.{p}"),
            Rename("mlp1.3.{p}", "connector.fc2.{p}"),
            *prefixed(FORMS[form][2](config.language), "language_model.", "language."),
        )
    )


def _layout(form: str, *types: str) -> Layout:
    return Layout(
        name=f"internvl_chat_{form}",
        family="internvl",
        model_types=tuple(f"internvl_chat_{kind}" for kind in (form, *types)),
        config_type=InternVLConfig,
        config_from=config_from,
        config_to=partial(config_to, form),
        table=partial(table, form),
    )


LAYOUTS = (_layout("internlm2"), _layout("llama", "qwen2", "mistral"), _layout("phi3"))
