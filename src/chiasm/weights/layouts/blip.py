"""BLIP as transformers publishes it (``blip``), in its three task classes; saved and in-memory names are the same.

Which class a folder holds stands under ``architectures``; a folder without it is a captioner, the commonest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.language.bert import BertConfig, CrossConfig
from chiasm.models.blip import BlipConfig
from chiasm.vision.vit import ViTConfig
from chiasm.weights.layouts import bert
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.layouts.towers import vit_of
from chiasm.weights.rules import Rename, Reshape, Rule, Split, Tied, prefixed
from chiasm.weights.table import Table

CAPTION, VQA, RETRIEVAL = "BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval"
_VISION: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 384,
    "patch_size": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
_TEXT: dict[str, Any] = {
    "vocab_size": 30524,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 512,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "bos_token_id": 30522,
    "is_decoder": True,
}


def vision_config(config: Mapping[str, Any]) -> ViTConfig:
    """Read a ``blip_vision_model`` config."""
    fields = Fields(config, _VISION, "vision_config")
    return vit_of(fields)


def config_from(config: Mapping[str, Any]) -> BlipConfig:
    """Read a ``blip`` config.

    Args:
        config: as stored.

    Returns:
        Ours.

    Raises:
        ConfigError: a class without a task, or a text tower without cross-attention.
    """
    top = Fields(config, {"image_text_hidden_size": 256, "architectures": [CAPTION]}, "config.json")
    kind = (top.get("architectures") or [CAPTION])[0]
    if kind not in (CAPTION, VQA, RETRIEVAL):
        known = ", ".join((CAPTION, VQA, RETRIEVAL))
        raise ConfigError("config_variant", f"config.json is for {kind}; known: {known}")
    vision, fields = vision_config(top.part("vision_config")), Fields(top.part("text_config"), _TEXT, "text_config")
    fields.expect("is_decoder", True)
    language = BertConfig(
        vocab_size=fields.count("vocab_size"),
        context_length=fields.count("max_position_embeddings"),
        hidden_dim=fields.count("hidden_size"),
        num_layers=fields.count("num_hidden_layers"),
        num_heads=fields.count("num_attention_heads"),
        mlp_dim=fields.count("intermediate_size"),
        num_types=0,
        act=fields.get("hidden_act"),
        norm_eps=fields.number("layer_norm_eps"),
        cross=CrossConfig(context_dim=vision.hidden_dim),
    )
    if kind == VQA and language.hidden_dim != vision.hidden_dim:
        widths = f"{language.hidden_dim} and {vision.hidden_dim}"
        raise ConfigError("config_variant", f"a question answerer needs equal widths, text and picture have {widths}")
    return BlipConfig(
        vision=vision,
        language=language,
        encoder=kind != CAPTION,
        decoder=kind != RETRIEVAL,
        embed_dim=top.count("image_text_hidden_size") if kind == RETRIEVAL else None,
        start_id=fields.count("bos_token_id"),
    )


def config_to(config: BlipConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: the pretrained form, or another tower, which no class of transformers holds.
    """
    joint = config.embed_dim is not None
    if not isinstance(config.vision, ViTConfig):
        raise ConfigError("config_unpublished", "transformers has no class for a BLIP whose tower isn't a ViT")
    if config.language.twin or (joint and config.decoder) or config.match_id is not None:
        raise ConfigError("config_unpublished", "transformers has no class for a BLIP with all three heads")
    kind = RETRIEVAL if joint else VQA if config.encoder else CAPTION
    vision, language = config.vision, config.language
    return {
        "architectures": [kind],
        "model_type": "blip",
        "image_text_hidden_size": config.embed_dim or 256,
        "vision_config": {
            "model_type": "blip_vision_model",
            "hidden_size": vision.hidden_dim,
            "intermediate_size": vision.mlp_dim,
            "num_hidden_layers": vision.num_layers,
            "num_attention_heads": vision.num_heads,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "hidden_act": vision.act,
            "layer_norm_eps": vision.norm_eps,
        },
        "text_config": {
            "model_type": "blip_text_model",
            "vocab_size": language.vocab_size,
            "hidden_size": language.hidden_dim,
            "encoder_hidden_size": vision.hidden_dim,
            "intermediate_size": language.mlp_dim,
            "num_hidden_layers": language.num_layers,
            "num_attention_heads": language.num_heads,
            "max_position_embeddings": language.context_length,
            "hidden_act": language.act,
            "layer_norm_eps": language.norm_eps,
            "bos_token_id": config.start_id,
            "is_decoder": True,
        },
    }


def vision_rules(config: ViTConfig) -> tuple[Rule, ...]:
    """The picture tower's rules."""
    width, layer, block = config.hidden_dim, "encoder.layers.{i}.", "blocks.{i}."
    positions = config.grid**2 + 1
    return (
        Reshape("embeddings.class_embedding", "cls_token", (1, 1, width), (width,)),
        Reshape("embeddings.position_embedding", "pos_embed", (1, positions, width), (positions, width)),
        Rename("embeddings.patch_embedding.{p}", "patch_embed.{p}"),
        Split(layer + "self_attn.qkv.{p}", tuple(f"{block}attn.{n}_proj.{{p}}" for n in "qkv")),
        Rename(layer + "self_attn.projection.{p}", block + "attn.o_proj.{p}"),
        Rename(layer + "layer_norm1.{p}", block + "norm1.{p}"),
        Rename(layer + "layer_norm2.{p}", block + "norm2.{p}"),
        Rename(layer + "mlp.fc1.{p}", block + "mlp.fc1.{p}"),
        Rename(layer + "mlp.fc2.{p}", block + "mlp.fc2.{p}"),
        Rename("post_layernorm.{p}", "norm_post.{p}"),
    )


def table(config: BlipConfig) -> Table:
    """The whole table."""
    assert isinstance(config.vision, ViTConfig), "another tower is refused by config_to"
    language = bert.rules(config.language)
    rules: tuple[Rule, ...] = prefixed(vision_rules(config.vision), "vision_model.", "vision.")
    if config.encoder:
        rules += prefixed(language, "text_encoder.", "language.")
    if config.decoder:
        rules += prefixed(language, "text_decoder.bert.", "decoder." if config.encoder else "language.")
        rules += prefixed(bert.head_rules(), "text_decoder.cls.predictions.", "lm_head.")
        words = "text_decoder.bert.embeddings.word_embeddings.weight"
        rules += (
            Tied("text_decoder.cls.predictions.decoder.weight", of=words),
            Tied("text_decoder.cls.predictions.decoder.bias", of="text_decoder.cls.predictions.bias"),
        )
    if config.embed_dim is not None:
        heads = {"vision_proj": "vision_proj", "text_proj": "text_proj", "itm_head": "match_head"}
        rules += tuple(Rename(f"{theirs}.{{p}}", f"{ours}.{{p}}") for theirs, ours in heads.items())
    return Table(rules)


LAYOUT = Layout(
    name="blip",
    family="blip",
    model_types=("blip",),
    config_type=BlipConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
