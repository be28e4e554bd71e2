"""ImageBind's own checkpoint (``imagebind_huge.pth``); it carries no config, and may lack some kinds of input.

What the tensors don't say is as published: heads 80 wide for pictures, 48 for depth, 64 for the others; sounds of 128
bands and 204 frames, read every 10 cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.language.text import EndOfTextPool, TextEncoderConfig
from chiasm.models.imagebind import ImageBindConfig
from chiasm.vision.modal import ModalConfig, MotionStem, PictureStem, PlaneStem
from chiasm.weights.layouts import authors
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.rules import Drop, Rename, Reshape, Rule, Shape, Split
from chiasm.weights.table import Table

NAME = "imagebind"
_STEMS = {"vision": "rgbt_stem", "audio": "rgbt_stem", "depth": "depth_stem", "thermal": "rgbt_stem", "imu": "imu_stem"}
_HEAD_DIMS = {"vision": 80, "depth": 48}
_SOUND = (128, 204)


def config_from(config: Mapping[str, Any]) -> ImageBindConfig:
    """Read the config that `chiasm convert` wrote."""
    own: ImageBindConfig = authors.read_own(ImageBindConfig, config)
    return own


def config_to(config: ImageBindConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: another tower for pictures, which nobody published.
    """
    if not isinstance(config.vision, ModalConfig):
        raise ConfigError("config_unpublished", "ImageBind's published layout has a ViT")
    return authors.write_own(NAME, config)


def _places(kind: str) -> str:
    helper = "" if kind == "imu" else "pos_embedding_helper."
    return f"modality_preprocessors.{kind}.{helper}pos_embed"


def _stem_name(kind: str) -> str:
    return f"modality_preprocessors.{kind}.{_STEMS[kind]}.proj.{'1.' if kind == 'vision' else ''}weight"


def recognise(shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
    """The config of one of the authors' checkpoints, from its tensors."""
    if _stem_name("vision") not in shapes or "modality_heads.text.proj.1.weight" not in shapes:
        return None
    towers = {kind: _tower(shapes, kind) for kind in _STEMS if _stem_name(kind) in shapes}
    joint, width = shapes["modality_heads.text.proj.1.weight"]
    vocab = shapes["modality_preprocessors.text.token_embedding.weight"][0]
    language = TextEncoderConfig(
        vocab_size=vocab,
        context_length=shapes["modality_preprocessors.text.pos_embed"][1],
        hidden_dim=width,
        num_layers=authors.layers_of(shapes, "modality_trunks.text.blocks."),
        num_heads=max(1, width // 64),
        mlp_dim=shapes["modality_trunks.text.blocks.0.mlp.fc1.weight"][0],
        act="gelu",
        norm_eps=1e-6,
        pool=EndOfTextPool(token_id=None),
    )
    return config_to(ImageBindConfig(language=language, embed_dim=joint, **towers))


def _tower(shapes: Mapping[str, Shape], kind: str) -> ModalConfig:
    stem, places = shapes[_stem_name(kind)], shapes[_places(kind)][1] - 1
    kernel = stem[-1]
    read: PictureStem | PlaneStem | MotionStem
    if kind == "vision":
        read = PictureStem(image_size=round(places**0.5) * kernel, patch_size=kernel)
    elif kind == "imu":
        read = MotionStem(length=places * 8, channels=kernel // 8)
    elif kind == "audio":
        read = PlaneStem(size=_SOUND, patch_size=kernel, stride=10)
    else:
        side = round(places**0.5) * kernel
        read = PlaneStem(size=(side, side), patch_size=kernel, stride=kernel)
    layers = authors.layers_of(shapes, f"modality_trunks.{kind}.blocks.")
    heads = max(1, stem[0] // _HEAD_DIMS.get(kind, 64))
    return ModalConfig(stem=read, hidden_dim=stem[0], num_layers=layers, num_heads=heads)


def _block_rules(kind: str, ours: str) -> list[Rule]:
    theirs, block = f"modality_trunks.{kind}.blocks.{{i}}.", ours + "blocks.{i}."
    return [
        Split(theirs + "attn.in_proj_{p}", tuple(f"{block}attn.{n}_proj.{{p}}" for n in "qkv")),
        Rename(theirs + "attn.out_proj.{p}", block + "attn.o_proj.{p}"),
        Rename(theirs + "norm_1.{p}", block + "norm1.{p}"),
        Rename(theirs + "norm_2.{p}", block + "norm2.{p}"),
        Rename(theirs + "mlp.fc1.{p}", block + "mlp.fc1.{p}"),
        Rename(theirs + "mlp.fc2.{p}", block + "mlp.fc2.{p}"),
    ]


def _tower_rules(kind: str, config: ModalConfig) -> list[Rule]:
    vision = kind == "vision"
    ours, width, places = "vision." if vision else f"towers.{kind}.", config.hidden_dim, config.stem.tokens + 1
    before, stem = f"modality_preprocessors.{kind}.", f"modality_preprocessors.{kind}.{_STEMS[kind]}."
    head = f"modality_heads.{kind}."
    rules: list[Rule] = [
        Rename(_stem_name(kind), ours + "proj"),
        Reshape(before + "cls_token", ours + "cls_token", (1, 1, width), (width,)),
        Reshape(_places(kind), ours + "pos_embed", (1, places, width), (places, width)),
        *_block_rules(kind, ours),
        Rename(head + "0.{p}", ours + "norm_post.{p}"),
        Rename(head + ("3.weight" if kind == "imu" else "2.weight"),
               "vision_proj.weight" if vision else f"projections.{kind}.weight"),
    ]  # fmt: skip
    if vision:
        return [*rules, Rename("modality_trunks.vision.pre_transformer_layer.0.{p}", "vision.norm_pre.{p}")]
    block = f"modality_trunks.{kind}.blocks.{{i}}.attn."
    for name in ("bias_k", "bias_v"):
        rules.append(Reshape(block + name, f"{ours}blocks.{{i}}.{name}", (1, 1, width), (width,)))
    # the fixed scales of the other kinds are numbers of the method, not weights
    return [*rules, Rename(stem + "norm_layer.{p}", ours + "norm_stem.{p}"),
            Drop(f"modality_postprocessors.{kind}.1.log_logit_scale")]  # fmt: skip


def table(config: ImageBindConfig) -> Table:
    """The whole table."""
    width, context = config.language.hidden_dim, config.language.context_length
    assert isinstance(config.vision, ModalConfig)
    rules: list[Rule] = [
        *_tower_rules("vision", config.vision),
        Rename("modality_preprocessors.text.token_embedding.weight", "language.token_embed.weight"),
        Reshape("modality_preprocessors.text.pos_embed", "language.pos_embed", (1, context, width), (context, width)),
        Drop("modality_preprocessors.text.mask"),
        *_block_rules("text", "language."),
        Rename("modality_heads.text.proj.0.{p}", "language.norm.{p}"),
        Rename("modality_heads.text.proj.1.weight", "text_proj.weight"),
        Rename("modality_postprocessors.text.1.log_logit_scale", "logit_scale"),
    ]
    for kind, tower in config.kinds.items():
        rules += _tower_rules(kind, tower)
    return Table(rules)


LAYOUT = Layout(
    name=NAME,
    family="imagebind",
    model_types=(NAME,),
    config_type=ImageBindConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
    recognise=recognise,
)
