"""CoCa as OpenCLIP publishes it (``open_clip_config.json`` with a ``multimodal_cfg``), either kind of pooling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.language.two_halves import CaptionerConfig
from chiasm.models.coca import CocaConfig, tower
from chiasm.vision.vit import ViTConfig
from chiasm.weights.layouts import open_clip
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.rules import Rename, Rule, Split, Transpose, prefixed
from chiasm.weights.table import Table

HEAD_WIDTH = open_clip.HEAD_WIDTH
_VISION = {
    "layers": 12, "width": 768, "head_width": HEAD_WIDTH, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224,
    "attentional_pool": False, "attn_pooler_queries": 256, "attn_pooler_heads": 8, "output_tokens": True,
    "no_ln_pre": False,
}  # fmt: skip
_TEXT = {
    "context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0,
    "embed_cls": False, "output_tokens": True, "pad_id": 0,
}  # fmt: skip
_FUSION = {
    "context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0,
    "dim_head": 64, "n_queries": 256, "attn_pooler_heads": 8,
}  # fmt: skip


def config_from(config: Mapping[str, Any]) -> CocaConfig:
    """Read an ``open_clip_config.json``.

    Raises:
        ConfigError: options that OpenCLIP's own CoCas don't have.
    """
    model = Fields(Fields(config, {}, "open_clip_config.json").part("model_cfg"), {"quick_gelu": False}, "model_cfg")
    parts = {"vision_cfg": _VISION, "text_cfg": _TEXT, "multimodal_cfg": _FUSION}
    vision, text, fusion = (Fields(model.part(name), known, name) for name, known in parts.items())
    for fields in (vision, text, fusion):
        strange = [key for key, value in fields.config.items() if value and key not in fields.defaults]
        if strange:
            raise ConfigError("config_variant", f"{fields.where} sets {strange[0]}, which OpenCLIP's CoCas don't have")
    model.expect("quick_gelu", False)
    text.expect("embed_cls", True)
    vision.expect("attentional_pool", True, "cascade")
    width, cascade = text.count("width"), vision.get("attentional_pool") == "cascade"
    for name in ("width", "heads", "context_length"):
        fusion.expect(name, text.get(name))
    text.expect("mlp_ratio", 4, 4.0)  # OpenCLIP builds the upper half with four whatever its config says
    picture = tower(
        vision.count("image_size"),
        vision.count("patch_size"),
        vision.count("width"),
        vision.count("layers"),
        vision.count("width") // vision.count("head_width"),
        int(vision.count("width") * vision.number("mlp_ratio")),
        norm_pre=not vision.flag("no_ln_pre"),
        norm_post=cascade,
    )
    language = CaptionerConfig(
        vocab_size=text.count("vocab_size"),
        context_length=text.count("context_length"),
        hidden_dim=width,
        num_heads=text.count("heads"),
        mlp_dim=int(width * text.number("mlp_ratio")),
        text_layers=text.count("layers"),
        fusion_layers=fusion.count("layers"),
        pad_id=int(text.number("pad_id")),
    )
    return CocaConfig(
        vision=picture,
        language=language,
        embed_dim=model.count("embed_dim"),
        num_queries=vision.count("attn_pooler_queries"),
        pool_heads=vision.count("attn_pooler_heads"),
        cascade=cascade,
    )


def config_to(config: CocaConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: widths or a tower that OpenCLIP can't hold.
    """
    vision, text = config.vision, config.language
    if not isinstance(vision, ViTConfig):
        raise ConfigError("config_unpublished", "OpenCLIP's captioners have a ViT")
    if text.mlp_dim != 4 * text.hidden_dim:
        raise ConfigError("config_unpublished", f"OpenCLIP's captioners have MLPs of 4 widths, here {text.mlp_dim}")
    if config.cascade and vision.hidden_dim != config.embed_dim:
        widths = f"{vision.hidden_dim} and {config.embed_dim}"
        raise ConfigError("config_unpublished", f"OpenCLIP's cascaded poolers need one width, here {widths}")
    sizes = {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "width": text.hidden_dim,
        "heads": text.num_heads,
        "mlp_ratio": text.mlp_dim / text.hidden_dim,
    }
    return {
        "model_cfg": {
            "embed_dim": config.embed_dim,
            "quick_gelu": False,
            "custom_text": True,
            "vision_cfg": {
                "image_size": vision.image_size,
                "layers": vision.num_layers,
                "width": vision.hidden_dim,
                "head_width": vision.hidden_dim // vision.num_heads,
                "mlp_ratio": vision.mlp_dim / vision.hidden_dim,
                "patch_size": vision.patch_size,
                "attentional_pool": "cascade" if config.cascade else True,
                "attn_pooler_queries": config.num_queries,
                "attn_pooler_heads": config.pool_heads,
                "output_tokens": True,
                "no_ln_pre": not vision.norm_pre,
            },
            "text_cfg": sizes
            | {"layers": text.text_layers, "embed_cls": True, "output_tokens": True, "pad_id": text.pad_id},
            "multimodal_cfg": sizes | {"layers": text.fusion_layers},
        }
    }


def _block_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rename(theirs + "ln_1.{p}", ours + "norm1.{p}"),
        Rename(theirs + "ln_2.{p}", ours + "norm2.{p}"),
        Split(theirs + "attn.in_proj_{p}", tuple(f"{ours}attn.{n}_proj.{{p}}" for n in "qkv")),
        Rename(theirs + "attn.out_proj.{p}", ours + "attn.o_proj.{p}"),
        Rename(theirs + "mlp.c_fc.{p}", ours + "mlp.fc1.{p}"),
        Rename(theirs + "mlp.c_proj.{p}", ours + "mlp.fc2.{p}"),
    )


def _pool_rules(theirs: str, ours: str, fused: bool) -> tuple[Rule, ...]:
    """torch's attention keeps three matrices apart where keys and queries differ in width."""
    names = tuple(f"{ours}attn.{n}_proj." for n in "qkv")
    matrices: tuple[Rule, ...] = (Split(theirs + "attn.in_proj_weight", tuple(f"{name}weight" for name in names)),)
    if not fused:
        matrices = tuple(
            Rename(f"{theirs}attn.{n}_proj_weight", f"{name}weight") for n, name in zip("qkv", names, strict=True)
        )
    return (
        Rename(theirs + "query", ours + "queries"),
        Rename(theirs + "ln_q.{p}", ours + "norm_q.{p}"),
        Rename(theirs + "ln_k.{p}", ours + "norm_kv.{p}"),
        *matrices,
        Split(theirs + "attn.in_proj_bias", tuple(f"{name}bias" for name in names)),
        Rename(theirs + "attn.out_proj.{p}", ours + "attn.o_proj.{p}"),
    )


def table(config: CocaConfig) -> Table:
    """The whole table."""
    skipped = ("ln_post.{p}",)
    vision = [rule for rule in open_clip.vit_rules() if rule.patterns("theirs") != skipped]
    rules: list[Rule] = [
        *prefixed(vision, "visual.", "vision."),
        Rename("visual.ln_post.{p}", "vision.norm_post.{p}" if config.cascade else "norm.{p}"),
        Transpose("visual.proj", "vision_proj.weight"),
        *_pool_rules("visual.attn_pool.", "connector.", config.vision.hidden_dim == config.embed_dim),
        Rename("text.token_embedding.weight", "language.token_embed.weight"),
        Rename("text.positional_embedding", "language.pos_embed"),
        Rename("text.cls_emb", "language.cls_token"),
        Rename("text.ln_final.{p}", "language.norm.{p}"),
        Transpose("text.text_projection", "text_proj.weight"),
        *_block_rules("text.transformer.resblocks.{i}.", "language.blocks.{i}."),
        *_block_rules("text_decoder.resblocks.{i}.", "language.fusion_blocks.{i}."),
        *_block_rules("text_decoder.cross_attn.{i}.", "language.cross_blocks.{i}."),
        Rename("text_decoder.cross_attn.{i}.ln_1_kv.{p}", "language.cross_blocks.{i}.norm_kv.{p}"),
        Rename("text_decoder.ln_final.{p}", "language.norm_out.{p}"),
        Transpose("text_decoder.text_projection", "language.head.weight"),
        Rename("logit_scale", "logit_scale"),
    ]
    if config.cascade:
        rules += _pool_rules("visual.attn_pool_contrastive.", "contrast_pool.", fused=True)
    return Table(rules)


LAYOUT = Layout(
    name="open_clip_coca",
    family="coca",
    model_types=("open_clip_coca",),
    config_type=CocaConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
    stem="open_clip_model",
    config_file="open_clip_config.json",
)
