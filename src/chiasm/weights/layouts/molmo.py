"""Molmo as its authors publish it (``molmo``).

The language model has OLMo's names: ``att_proj`` fuses queries, keys and values, ``ff_proj`` the MLP's two branches,
the gate second; ``wte.new_embedding`` holds the structure tokens. The tower's patch projection is a matrix over
(row, column, colour). The shape of the tower isn't in the config: every published size has CLIP ViT-L/14-336's first
23 layers, and what we write says so in fields of our own. OLMoE's names inside a block are taken from transformers'
OLMoE, because the file that holds them isn't documented.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chiasm.connectors.mean_query_pool import MeanQueryPoolConfig
from chiasm.core.errors import ConfigError
from chiasm.language.decoder import DecoderConfig
from chiasm.language.mixture import MixtureDecoderConfig
from chiasm.language.reordered import ReorderedDecoderConfig
from chiasm.models.assembly import clip_tower
from chiasm.models.molmo import MolmoConfig
from chiasm.nn.attention import QKNormConfig
from chiasm.nn.positions import RotaryConfig
from chiasm.weights.layouts.deepseek import expert_rules
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.rules import ColoursLast, Rename, Rule, Split, Tied
from chiasm.weights.table import Table

DEFAULTS: dict[str, Any] = {
    "vocab_size": 50304,
    "embedding_size": 50304,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "qkv_bias": False,
    "weight_tying": False,
    "attention_layer_norm": False,
    "norm_after": False,
    "layer_norm_type": "rms",
    "clip_qkv": None,
    "rope_impl": "llama",
    "moe_num_experts": 0,
    "moe_top_k": 8,
    "image_token_id": None,
    "max_crops": 12,
}
TOWER: dict[str, Any] = {
    "image_size": 336, "patch_size": 14, "hidden_size": 1024, "num_layers": 23, "num_heads": 16, "mlp_dim": 4096,
    "layers": [-2, -9], "margin": 4, "projector_dim": None,
}  # fmt: skip


def _language(fields: Fields) -> DecoderConfig:
    fields.expect("clip_qkv", None)
    fields.expect("layer_norm_type", "rms")
    fields.expect("rope_impl", "llama")
    heads, eps = fields.count("num_attention_heads"), fields.number("layer_norm_eps")
    experts = int(fields.get("moe_num_experts"))
    shape: dict[str, Any] = {
        "vocab_size": fields.count("embedding_size"),
        "hidden_dim": fields.count("hidden_size"),
        "num_layers": fields.count("num_hidden_layers"),
        "num_heads": heads,
        "num_kv_heads": fields.count("num_key_value_heads") if fields.get("num_key_value_heads") else heads,
        "mlp_dim": fields.count("intermediate_size") // (1 if experts else 2),
        "context_length": fields.count("max_position_embeddings"),
        "norm_eps": eps,
        "rotary": RotaryConfig(theta=fields.number("rope_theta")),
        "qkv_bias": fields.flag("qkv_bias"),
        "tie_embeddings": fields.flag("weight_tying"),
        "qk_norm": QKNormConfig(eps=eps) if fields.flag("attention_layer_norm") else None,
    }
    if experts:
        mixture = {"num_experts": experts, "top_k": fields.count("moe_top_k"), "expert_dim": shape["mlp_dim"]}
        return MixtureDecoderConfig(**shape, **mixture)
    return (ReorderedDecoderConfig if fields.flag("norm_after") else DecoderConfig)(**shape)


def config_from(config: Mapping[str, Any]) -> MolmoConfig:
    """Read a ``molmo`` config.

    Args:
        config: as stored.

    Returns:
        Ours.

    Raises:
        ConfigError: a variant that we don't build.
    """
    fields = Fields(config, DEFAULTS, "config.json")
    tower = Fields(fields.part("vision_backbone"), TOWER, "vision_backbone")
    language = _language(fields)
    width, layers = tower.count("hidden_size"), tuple(tower.get("layers"))
    vision = clip_tower(
        tower.count("image_size"),
        tower.count("patch_size"),
        width,
        tower.count("num_layers"),
        tower.count("num_heads"),
        tower.count("mlp_dim"),
    )
    projector = tower.get("projector_dim") or (language.mlp_dim)
    slot = fields.get("image_token_id")
    return MolmoConfig(
        vision=replace(vision, norm_post=False),
        connector=MeanQueryPoolConfig(
            input_dim=width * len(layers),
            pooled_dim=width,
            num_heads=tower.count("num_heads"),
            hidden_dim=projector,
            output_dim=language.hidden_dim,
        ),
        language=language,
        image_token_id=language.vocab_size + 4 if slot is None else slot,
        layers=layers,
        margin=tower.count("margin"),
        max_crops=fields.count("max_crops"),
    )


def config_to(config: MolmoConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: a language model that Molmo doesn't have.
    """
    language, vision = config.language, config.vision
    if language.out_bias or language.mlp_bias or language.rotary is None or not language.rms_norm:
        raise ConfigError("config_unpublished", "Molmo's language models have RMSNorm, rotary positions")
    mixture = isinstance(language, MixtureDecoderConfig)
    out = {
        "architectures": ["MolmoForCausalLM"],
        "model_type": "molmo",
        "vocab_size": language.vocab_size,
        "embedding_size": language.vocab_size,
        "hidden_size": language.hidden_dim,
        "intermediate_size": language.mlp_dim * (1 if mixture else 2),
        "num_hidden_layers": language.num_layers,
        "num_attention_heads": language.num_heads,
        "num_key_value_heads": language.num_kv_heads,
        "max_position_embeddings": language.context_length,
        "layer_norm_eps": language.norm_eps,
        "layer_norm_type": "rms",
        "rope_theta": language.rotary.theta,
        "qkv_bias": language.qkv_bias,
        "weight_tying": language.tie_embeddings,
        "tie_word_embeddings": language.tie_embeddings,
        "attention_layer_norm": language.qk_norm is not None,
        "norm_after": isinstance(language, ReorderedDecoderConfig),
        "use_position_ids": True,
        "image_token_id": config.image_token_id,
        "max_crops": config.max_crops,
        "vision_backbone": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "hidden_size": vision.hidden_dim,
            "num_layers": vision.num_layers,
            "num_heads": vision.num_heads,
            "mlp_dim": vision.mlp_dim,
            "layers": list(config.layers),
            "margin": config.margin,
            "projector_dim": config.connector.hidden_dim,
        },
    }
    if isinstance(language, MixtureDecoderConfig):
        out |= {"moe_num_experts": language.num_experts, "moe_top_k": language.top_k}
    return out


def _block_rules(language: DecoderConfig) -> tuple[Rule, ...]:
    layer, block = "model.transformer.blocks.{i}.", "language.blocks.{i}."
    ratio = (language.num_heads, language.num_kv_heads, language.num_kv_heads)
    rules: tuple[Rule, ...] = (
        Split(layer + "att_proj.{p}", tuple(f"{block}attn.{n}_proj.{{p}}" for n in "qkv"), ratio=ratio),
        Rename(layer + "attn_out.weight", block + "attn.o_proj.weight"),
        Rename(layer + "attn_norm.weight", block + "norm1.weight"),
        Rename(layer + "ff_norm.weight", block + "norm2.weight"),
        *(Rename(f"{layer}{n}_norm.weight", f"{block}attn.{n}_norm.weight") for n in "qk"),
    )
    if isinstance(language, MixtureDecoderConfig):
        experts = expert_rules(layer + "mlp.", block + "mlp.", language.num_experts)
        return (*rules, Rename(layer + "mlp.gate.weight", block + "mlp.router.weight"), *experts)
    return (
        *rules,
        Split(layer + "ff_proj.weight", (block + "mlp.up_proj.weight", block + "mlp.gate_proj.weight")),
        Rename(layer + "ff_out.weight", block + "mlp.down_proj.weight"),
    )


def table(config: MolmoConfig) -> Table:
    """The whole table."""
    tower, size = "model.vision_backbone.image_vit.", config.vision.patch_size
    theirs, ours = tower + "transformer.resblocks.{i}.", "vision.blocks.{i}."
    pool = "model.vision_backbone.image_pooling_2d."
    head: Rule = Rename("model.transformer.ff_out.weight", "language.lm_head.weight")
    if config.language.tie_embeddings:
        head = Tied("model.transformer.ff_out.weight", of="model.transformer.wte.embedding")
    return Table(
        (
            Rename(tower + "class_embedding", "vision.cls_token"),
            Rename(tower + "positional_embedding", "vision.pos_embed"),
            ColoursLast(tower + "patch_embedding.weight", "vision.patch_embed.weight", size),
            Rename(tower + "pre_ln.{p}", "vision.norm_pre.{p}"),
            *(Rename(f"{theirs}attention.w{n}.{{p}}", f"{ours}attn.{n}_proj.{{p}}") for n in "qkvo"),
            Rename(theirs + "attention_norm.{p}", ours + "norm1.{p}"),
            Rename(theirs + "ffn_norm.{p}", ours + "norm2.{p}"),
            Rename(theirs + "feed_forward.w1.{p}", ours + "mlp.fc1.{p}"),
            Rename(theirs + "feed_forward.w2.{p}", ours + "mlp.fc2.{p}"),
            *(Rename(f"{pool}w{n}.{{p}}", f"connector.attn.{n}_proj.{{p}}") for n in "qkvo"),
            *(
                Rename(f"model.vision_backbone.image_projector.{a}.weight", f"connector.{b}_proj.weight")
                for a, b in (("w1", "gate"), ("w2", "down"), ("w3", "up"))
            ),
            Rename("model.vision_backbone.pad_embed", "pad_embed"),
            Rename("model.transformer.wte.embedding", "language.embed_tokens.weight"),
            Rename("model.transformer.wte.new_embedding", "added_embed"),
            Rename("model.transformer.ln_f.weight", "language.norm.weight"),
            head,
            *_block_rules(config.language),
        )
    )


LAYOUT = Layout(
    name="molmo",
    family="molmo",
    model_types=("molmo",),
    config_type=MolmoConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
