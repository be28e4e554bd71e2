"""OpenAI's own names, which OpenCLIP publishes (``open_clip_config.json``): CLIP with a ResNet or a ViT.

OpenCLIP's custom text towers (names under ``text.``) are other models and are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.language.text import EndOfTextPool, TextEncoderConfig
from chiasm.models.clip import ClipConfig
from chiasm.vision.resnet import ModifiedResNetConfig
from chiasm.vision.vit import ViTConfig
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.rules import Drop, Rename, Rule, Split, Transpose, prefixed
from chiasm.weights.table import Table

HEAD_WIDTH = 64
_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
_VISION = {"layers": 12, "width": 768, "head_width": HEAD_WIDTH, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224}


def config_from(config: Mapping[str, Any]) -> ClipConfig:
    """Read an ``open_clip_config.json``.

    Args:
        config: as stored (with ``model_cfg``).

    Returns:
        Ours.

    Raises:
        ConfigError: towers from other libraries, or options that OpenAI's CLIPs don't have.
    """
    top = Fields(config, {}, "open_clip_config.json")
    model = Fields(top.part("model_cfg"), {"quick_gelu": False}, "model_cfg")
    vision, text = (
        Fields(model.part("vision_cfg"), _VISION, "vision_cfg"),
        Fields(model.part("text_cfg"), _TEXT, "text_cfg"),
    )
    known = {**dict.fromkeys(_VISION), "timm_model_name": None}
    strange = [key for key, value in vision.config.items() if value and (key not in known or key.startswith("timm"))]
    strange += [key for key, value in text.config.items() if value and key not in _TEXT]
    if strange:
        raise ConfigError("config_variant", f"open_clip_config.json sets {strange[0]}, which OpenAI's CLIPs don't have")
    act = "quick_gelu" if model.flag("quick_gelu") else "gelu"
    width = text.count("width")
    return ClipConfig(
        vision=_resnet(vision, model.count("embed_dim"))
        if isinstance(vision.get("layers"), list)
        else _vit(vision, act),
        language=TextEncoderConfig(
            vocab_size=text.count("vocab_size"),
            context_length=text.count("context_length"),
            hidden_dim=width,
            num_layers=text.count("layers"),
            num_heads=text.count("heads"),
            mlp_dim=int(width * text.number("mlp_ratio")),
            act=act,
            norm_eps=1e-5,
            pool=EndOfTextPool(token_id=None),
        ),
        embed_dim=model.count("embed_dim"),
    )


def _resnet(fields: Fields, embed_dim: int) -> ModifiedResNetConfig:
    layers = fields.get("layers")
    if len(layers) != 4:
        raise ConfigError("config_field", f"vision_cfg.layers has {len(layers)} stages, expected 4")
    width = fields.count("width")
    return ModifiedResNetConfig(
        image_size=fields.count("image_size"),
        layers=(layers[0], layers[1], layers[2], layers[3]),
        width=width,
        num_heads=width * 32 // fields.count("head_width"),
        output_dim=embed_dim,
    )


def _vit(fields: Fields, act: str) -> ViTConfig:
    width = fields.count("width")
    return ViTConfig(
        image_size=fields.count("image_size"),
        patch_size=fields.count("patch_size"),
        hidden_dim=width,
        num_layers=fields.count("layers"),
        num_heads=width // fields.count("head_width"),
        mlp_dim=int(width * fields.number("mlp_ratio")),
        act=act,
        norm_eps=1e-5,
        class_token=True,
        norm_pre=True,
        patch_bias=False,
        attention_pool=False,
    )


def config_to(config: ClipConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Args:
        config: ours.

    Returns:
        The published form.

    Raises:
        ConfigError: the activation is neither OpenAI's nor GELU.
    """
    vision, text = config.vision, config.language
    if text.act not in ("quick_gelu", "gelu"):
        raise ConfigError("config_unpublished", f"OpenCLIP's layout has no activation {text.act!r}")
    shape: dict[str, Any] = {"image_size": vision.image_size, "width": vision.hidden_dim}
    if isinstance(vision, ModifiedResNetConfig):
        shape |= {"layers": list(vision.layers), "width": vision.width, "patch_size": None}
        shape["head_width"] = vision.width * 32 // vision.num_heads
    else:
        shape |= {"layers": vision.num_layers, "patch_size": vision.patch_size}
        shape["head_width"] = vision.hidden_dim // vision.num_heads
        shape["mlp_ratio"] = vision.mlp_dim / vision.hidden_dim
    return {
        "model_cfg": {
            "embed_dim": config.embed_dim,
            "quick_gelu": text.act == "quick_gelu",
            "vision_cfg": shape,
            "text_cfg": {
                "context_length": text.context_length,
                "vocab_size": text.vocab_size,
                "width": text.hidden_dim,
                "heads": text.num_heads,
                "layers": text.num_layers,
                "mlp_ratio": text.mlp_dim / text.hidden_dim,
            },
        }
    }


def block_rules() -> tuple[Rule, ...]:
    """One transformer layer."""
    layer, block = "transformer.resblocks.{i}.", "blocks.{i}."
    return (
        Rename(layer + "ln_1.{p}", block + "norm1.{p}"),
        Rename(layer + "ln_2.{p}", block + "norm2.{p}"),
        Split(layer + "attn.in_proj_{p}", tuple(f"{block}attn.{n}_proj.{{p}}" for n in "qkv")),
        Rename(layer + "attn.out_proj.{p}", block + "attn.o_proj.{p}"),
        Rename(layer + "mlp.c_fc.{p}", block + "mlp.fc1.{p}"),
        Rename(layer + "mlp.c_proj.{p}", block + "mlp.fc2.{p}"),
    )


def resnet_rules() -> tuple[Rule, ...]:
    """The modified ResNet."""
    rules: list[Rule] = [
        Rename(f"{kind}{n}.{{p}}", f"stem.{kind}{n}.{{p}}") for kind in ("conv", "bn") for n in (1, 2, 3)
    ]
    for stage in range(4):
        theirs, ours = f"layer{stage + 1}.{{b}}.", f"stages.{stage}.{{b}}."
        rules += [Rename(f"{theirs}{k}{n}.{{p}}", f"{ours}{k}{n}.{{p}}") for k in ("conv", "bn") for n in (1, 2, 3)]
        rules.append(Rename(theirs + "downsample.0.{p}", ours + "downsample.conv.{p}"))
        rules.append(Rename(theirs + "downsample.1.{p}", ours + "downsample.bn.{p}"))
    rules.append(Rename("attnpool.positional_embedding", "pool.pos_embed"))
    rules += [
        Rename(f"attnpool.{n}_proj.{{p}}", f"pool.attn.{m}_proj.{{p}}") for n, m in zip("qkvc", "qkvo", strict=True)
    ]
    return tuple(rules)


def vit_rules() -> tuple[Rule, ...]:
    """The ViT, without its projection."""
    return (
        Rename("class_embedding", "cls_token"),
        Rename("positional_embedding", "pos_embed"),
        Rename("conv1.weight", "patch_embed.weight"),
        Rename("ln_pre.{p}", "norm_pre.{p}"),
        *block_rules(),
        Rename("ln_post.{p}", "norm_post.{p}"),
    )


def table(config: ClipConfig) -> Table:
    """The whole table.

    Args:
        config: says which tower.

    Returns:
        The rules; OpenAI's archives also carry a few numbers and a mask, which are dropped.
    """
    resnet = isinstance(config.vision, ModifiedResNetConfig)
    vision = resnet_rules() if resnet else vit_rules()
    projection: tuple[Rule, ...] = () if resnet else (Transpose("visual.proj", "vision_proj.weight"),)
    return Table(
        (
            *prefixed(vision, "visual.", "vision."),
            *projection,
            Rename("token_embedding.weight", "language.token_embed.weight"),
            Rename("positional_embedding", "language.pos_embed"),
            *prefixed(block_rules(), "", "language."),
            Rename("ln_final.{p}", "language.norm.{p}"),
            Transpose("text_projection", "text_proj.weight"),
            Rename("logit_scale", "logit_scale"),
            *(Drop(name) for name in ("attn_mask", "input_resolution", "context_length", "vocab_size")),
        )
    )


LAYOUT = Layout(
    name="open_clip",
    family="clip",
    model_types=("open_clip",),
    config_type=ClipConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
    stem="open_clip_model",
    config_file="open_clip_config.json",
)
