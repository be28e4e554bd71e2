"""InternVL-C and InternVL-G as their authors publish them.

InternVL-G (``OpenGVLab/InternVL-14B-224px``): ``internvl`` with a ``qllama_config``; tower under ``vision_model.``,
QLLaMA under ``qllama.``, two poolings, and heads. InternVL-C (``internvl_c_13b_224px.pth``): timm's names for the
tower, ``transformer.`` for the language model, no config.

Departure: checkpoints with unmerged LoRA updates are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.models.assembly import llama as llama_shape
from chiasm.models.internvl_g import InternVLCConfig, InternVLGConfig, tower, with_queries
from chiasm.weights.layouts import authors, internvl_chat, llama
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.rules import Rename, Rule, Shape, Transpose, Unsqueeze, prefixed
from chiasm.weights.table import Table

DEFAULTS: dict[str, Any] = {
    "clip_embed_dim": 768,
    "attn_pool_num_heads": 16,
    "num_query_token": 96,
    "cross_attention_frequency": 2,
    "use_backbone_lora": 0,
    "use_qllama_lora": 0,
    "force_image_size": None,
    "embedding": "InternVL-G",
}
C_NAME, _HEAD_DIM = "internvl_c", 128


def config_from(config: Mapping[str, Any]) -> InternVLGConfig:
    """Read an ``internvl`` config with a ``qllama_config``.

    Args:
        config: as stored; ``embedding`` is ours and says whether the queries take part in a picture's vector.

    Returns:
        Ours.

    Raises:
        ConfigError: a variant that we don't build.
    """
    fields = Fields(config, DEFAULTS, "config.json")
    fields.expect("use_backbone_lora", 0)
    fields.expect("use_qllama_lora", 0)
    fields.expect("embedding", "InternVL-G", "InternVL-C")
    vision = internvl_chat.vision_config(fields.part("vision_config"), None)
    if fields.get("force_image_size"):  # positions are stored as they were stretched
        vision = replace(vision, image_size=fields.count("force_image_size"))
    language = llama.decoder_config(fields.part("qllama_config"), "qllama_config")
    queries, every = fields.count("num_query_token"), fields.count("cross_attention_frequency")
    return InternVLGConfig(
        vision=vision,
        language=with_queries(language, vision.hidden_dim, queries, every),
        embed_dim=fields.count("clip_embed_dim"),
        pool_heads=fields.count("attn_pool_num_heads"),
        tower_only=fields.get("embedding") == "InternVL-C",
    )


def config_to(config: InternVLGConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: a similarity that begins elsewhere than published.
    """
    if config.init_scale != InternVLGConfig.__dataclass_fields__["init_scale"].default:
        raise ConfigError("config_unpublished", "InternVL's own layout doesn't say where the similarity's scale begins")
    return {
        "architectures": ["InternVLModel"],
        "model_type": "internvl",
        "attn_pool_num_heads": config.pool_heads,
        "clip_embed_dim": config.embed_dim,
        "cross_attention_frequency": config.language.cross_every,
        "num_query_token": config.language.num_queries,
        "embedding": "InternVL-C" if config.tower_only else "InternVL-G",
        "label_smoothing": 0.0,
        "use_backbone_lora": 0,
        "use_qllama_lora": 0,
        "qllama_config": llama.decoder_dict(config.language),
        "vision_config": internvl_chat.vision_dict(config.vision),
    }


def pool_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """One pooling's tensors; biases of queries, keys and values stand beside their matrices."""
    norms = {"norm1_q": "norm_query", "norm1_k": "norm_keys", "norm1_v": "norm_values"}
    return (
        *(Rename(f"{theirs}{old}.{{p}}", f"{ours}{new}.{{p}}") for old, new in norms.items()),
        *(Rename(f"{theirs}cross_attn.{n}.weight", f"{ours}attn.{n}_proj.weight") for n in "qkv"),
        *(Rename(f"{theirs}cross_attn.{n}_bias", f"{ours}attn.{n}_proj.bias") for n in "qkv"),
        Rename(f"{theirs}cross_attn.proj.{{p}}", f"{ours}attn.o_proj.{{p}}"),
    )


def table(config: InternVLGConfig) -> Table:
    """The whole table of an InternVL-G."""
    layer, block = "qllama.model.layers.{i}.cross_attn.", "language.blocks.{i}."
    return Table(
        (
            *prefixed(internvl_chat.vision_rules(config.vision.hidden_dim), "vision_model.", "vision."),
            *prefixed(llama.decoder_rules(config.language), "qllama.", "language."),
            *(Rename(f"{layer}{n}_proj.weight", f"{block}cross_attn.{n}_proj.weight") for n in "qkvo"),
            Rename(layer + "norm1.weight", block + "cross_norm.weight"),
            Rename(layer + "norm2.weight", block + "context_norm.weight"),
            Unsqueeze("query_tokens", "language.queries"),
            *pool_rules("clip_projector.", "pool."),
            *pool_rules("clip_projector2.", "query_pool."),
            Transpose("text_projection", "text_proj.weight"),
            Rename("logit_scale", "logit_scale"),
            Rename("itm_head.{p}", "match_head.{p}"),
        )
    )


def c_config_from(config: Mapping[str, Any]) -> InternVLCConfig:
    """Read the config that `chiasm convert` wrote for an InternVL-C."""
    own: InternVLCConfig = authors.read_own(InternVLCConfig, config)
    return own


def c_config_to(config: InternVLCConfig) -> dict[str, Any]:
    """The inverse of `c_config_from`."""
    return authors.write_own(C_NAME, config)


def recognise(shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
    """The config of an InternVL-C checkpoint, from its tensors; None = it is something else.

    What the tensors don't say is as published: heads of 128, 16 in the pooling, ε of 1e-6, a context of 2,048.
    """
    needed = {"clip_projector.cross_attn.q_bias", "transformer.embed_tokens.weight", "text_projection", "cls_token"}
    if not needed <= set(shapes):
        return None
    plain = authors.vit_config(shapes, "", norm_eps=1e-6, head_dim=_HEAD_DIM)
    vision = tower(
        plain.image_size, plain.patch_size, plain.hidden_dim, plain.num_layers, plain.num_heads, plain.mlp_dim
    )
    vocab, width = shapes["transformer.embed_tokens.weight"]
    layers = authors.layers_of(shapes, "transformer.layers.")
    mlp = shapes["transformer.layers.0.mlp.up_proj.weight"][0]
    heads = max(1, width // _HEAD_DIM)
    language = llama_shape(vocab, width, layers, heads, heads, mlp, context=2048, eps=1e-6, tie_embeddings=True)
    return c_config_to(InternVLCConfig(vision=vision, language=language, embed_dim=shapes["text_projection"][1]))


def c_table(config: InternVLCConfig) -> Table:
    """The whole table of an InternVL-C."""
    vit = [rule for rule in authors.vit_rules(config.vision) if not rule.patterns("theirs")[0].startswith("norm.")]
    block = "blocks.{i}."
    scales = [Rename(f"{block}ls{n}.gamma", f"{block}scale{n}") for n in (1, 2)]
    norms = [Rename(f"{block}attn.{n}_norm.weight", f"{block}attn.{n}_norm.weight") for n in "qk"]
    language = [
        Rename(rule.theirs.removeprefix("model."), rule.ours)
        for rule in llama.decoder_rules(config.language)
        if isinstance(rule, Rename) and rule.theirs.startswith("model.")
    ]
    return Table(
        (
            *prefixed([*vit, *scales, *norms], "", "vision."),
            *prefixed(language, "transformer.", "language."),
            *pool_rules("clip_projector.", "pool."),
            Transpose("text_projection", "text_proj.weight"),
            Rename("logit_scale", "logit_scale"),
        )
    )


LAYOUTS = (
    Layout(
        name="internvl_g",
        family="internvl_g",
        model_types=("internvl_g",),
        config_type=InternVLGConfig,
        config_from=config_from,
        config_to=config_to,
        table=table,
    ),
    Layout(
        name=C_NAME,
        family="internvl_c",
        model_types=(C_NAME,),
        config_type=InternVLCConfig,
        config_from=c_config_from,
        config_to=c_config_to,
        table=c_table,
        recognise=recognise,
    ),
)
