"""CogVLM and CogVLM2 as their authors publish them (``CogVLMForCausalLM``, ``CogVLMVideoForCausalLM``; their configs
name no ``model_type``).

Queries, keys and values are fused in the tower and in both sets of the language model's projections. The position of
the slot in the vocabulary isn't stored: it is the padding token, whose embedding is never looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.connectors.glu_adapter import GLUAdapterConfig
from chiasm.core.errors import ConfigError
from chiasm.fusion.routed_weights import ExpertDecoderConfig
from chiasm.models.cogvlm import CogVLMConfig
from chiasm.nn.positions import RotaryConfig
from chiasm.vision.vit import ViTConfig
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.rules import Drop, Rename, Reshape, Rule, Split
from chiasm.weights.table import Table

DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_multi_query_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
}
FILMING = "CogVLMVideoForCausalLM"  # 24 frames a video, as its code says
VISION: dict[str, Any] = {
    "hidden_act": "gelu",
    "hidden_size": 1792,
    "image_size": 490,
    "in_channels": 3,
    "intermediate_size": 15360,
    "layer_norm_eps": 1e-6,
    "num_heads": 16,
    "num_hidden_layers": 63,
    "patch_size": 14,
}


def config_from(config: Mapping[str, Any]) -> CogVLMConfig:
    """Read a CogVLM or CogVLM2 config; the second says ``num_multi_query_heads``.

    Args:
        config: as stored.

    Returns:
        Ours.

    Raises:
        ConfigError: a variant that we don't build.
    """
    filming = FILMING in (config.get("architectures") or ())
    fields = Fields(config, {**DEFAULTS, "video_frames": 24 if filming else 0}, "config.json")
    tower = Fields(fields.part("vision_config"), VISION, "vision_config")
    tower.expect("in_channels", 3)
    second = fields.get("num_multi_query_heads") is not None
    heads, width = fields.count("num_attention_heads"), tower.count("hidden_size")
    theta = float(config.get("rope_theta") or (500000 if second else 10000))  # written in code, not in the config
    language = ExpertDecoderConfig(
        vocab_size=fields.count("vocab_size"),
        hidden_dim=fields.count("hidden_size"),
        num_layers=fields.count("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=fields.count("num_multi_query_heads") if second else heads,
        mlp_dim=fields.count("intermediate_size"),
        context_length=fields.count("max_position_embeddings"),
        norm_eps=fields.number("rms_norm_eps"),
        rotary=RotaryConfig(theta=theta),
        tie_embeddings=fields.flag("tie_word_embeddings"),
        act=fields.get("hidden_act"),
        visual_bias=second,
    )
    vision = ViTConfig(
        image_size=tower.count("image_size"),
        patch_size=tower.count("patch_size"),
        hidden_dim=width,
        num_layers=tower.count("num_hidden_layers"),
        num_heads=tower.count("num_heads"),
        mlp_dim=tower.count("intermediate_size"),
        act=tower.get("hidden_act"),
        norm_eps=tower.number("layer_norm_eps"),
        class_token=True,
        norm_pre=False,
        patch_bias=True,
        attention_pool=False,
        norm_post=False,
        sublayer_norm=True,
    )
    adapter = GLUAdapterConfig(
        input_dim=width, hidden_dim=language.mlp_dim, output_dim=language.hidden_dim, merge=2 if second else 1
    )
    return CogVLMConfig(
        vision=vision,
        connector=adapter,
        language=language,
        image_token_id=int(fields.get("pad_token_id")),
        video_frames=int(fields.get("video_frames")),
    )


def config_to(config: CogVLMConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: a mixture of the two generations, or a language model that has biases as it was trained.
    """
    language, vision = config.language, config.vision
    if language.qkv_bias:
        raise ConfigError("config_unpublished", "CogVLM's language model has no biases of its own")
    second = config.connector.merge == 2
    if language.visual_bias != second or config.connector.hidden_dim != language.mlp_dim or language.rotary is None:
        raise ConfigError("config_unpublished", "CogVLM2 has visual biases and a convolution, CogVLM neither")
    out = {
        "architectures": [FILMING if config.video_frames else "CogVLMForCausalLM"],
        "model_type": "cogvlm",
        "vocab_size": language.vocab_size,
        "hidden_size": language.hidden_dim,
        "intermediate_size": language.mlp_dim,
        "num_hidden_layers": language.num_layers,
        "num_attention_heads": language.num_heads,
        "hidden_act": language.act,
        "max_position_embeddings": language.context_length,
        "rms_norm_eps": language.norm_eps,
        "rope_theta": language.rotary.theta,
        "tie_word_embeddings": language.tie_embeddings,
        "pad_token_id": config.image_token_id,
        "video_frames": config.video_frames,
        "template_version": "chat",
        "vision_config": {
            "dropout_prob": 0.0,
            "hidden_act": vision.act,
            "hidden_size": vision.hidden_dim,
            "image_size": vision.image_size,
            "in_channels": 3,
            "intermediate_size": vision.mlp_dim,
            "layer_norm_eps": vision.norm_eps,
            "num_heads": vision.num_heads,
            "num_hidden_layers": vision.num_layers,
            "num_positions": vision.grid**2 + 1,
            "patch_size": vision.patch_size,
        },
    }
    return out | ({"num_multi_query_heads": language.num_kv_heads} if second else {})


def table(config: CogVLMConfig) -> Table:
    """The whole table."""
    language, width = config.language, config.vision.hidden_dim
    tower, layer, block = "model.vision.", "model.layers.{i}.", "language.blocks.{i}."
    eva, ours = tower + "transformer.layers.{i}.", "vision.blocks.{i}."
    ratio = (language.num_heads, language.num_kv_heads, language.num_kv_heads)
    experts: list[Rule] = []
    for kind, prefix, mlp in (("language", "", "mlp"), ("vision", "visual_", "visual_mlp")):
        fused = f"{layer}self_attn.{kind}_expert_query_key_value.{{p}}"
        experts.append(Split(fused, tuple(f"{block}attn.{prefix}{n}_proj.{{p}}" for n in "qkv"), ratio=ratio))
        experts.append(Rename(f"{layer}self_attn.{kind}_expert_dense.weight", f"{block}attn.{prefix}o_proj.weight"))
        experts += [
            Rename(f"{layer}mlp.{kind}_mlp.{n}_proj.weight", f"{block}{mlp}.{n}_proj.weight")
            for n in ("gate", "up", "down")
        ]
    adapter = (
        ("linear_proj.weight", "linear.weight"), ("gate_proj.weight", "mlp.gate_proj.weight"),
        ("dense_h_to_4h.weight", "mlp.up_proj.weight"), ("dense_4h_to_h.weight", "mlp.down_proj.weight"),
    )  # fmt: skip
    return Table(
        (
            Rename("model.embed_tokens.weight", "language.embed_tokens.weight"),
            Rename("model.norm.weight", "language.norm.weight"),
            Rename("lm_head.weight", "language.lm_head.weight"),
            Rename(layer + "input_layernorm.weight", block + "norm1.weight"),
            Rename(layer + "post_attention_layernorm.weight", block + "norm2.weight"),
            *experts,
            Drop(layer + "self_attn.rotary_emb.inv_freq"),
            Rename(tower + "patch_embedding.proj.{p}", "vision.patch_embed.{p}"),
            Reshape(tower + "patch_embedding.cls_embedding", "vision.cls_token", (1, width), (width,)),
            Rename(tower + "patch_embedding.position_embedding.weight", "vision.pos_embed"),
            Split(eva + "attention.query_key_value.{p}", tuple(f"{ours}attn.{n}_proj.{{p}}" for n in "qkv")),
            Rename(eva + "attention.dense.{p}", ours + "attn.o_proj.{p}"),
            Rename(eva + "input_layernorm.{p}", ours + "norm1.{p}"),
            Rename(eva + "post_attention_layernorm.{p}", ours + "norm2.{p}"),
            Rename(eva + "mlp.fc1.{p}", ours + "mlp.fc1.{p}"),
            Rename(eva + "mlp.fc2.{p}", ours + "mlp.fc2.{p}"),
            *(Rename(f"{tower}linear_proj.{a}", f"connector.{b}") for a, b in adapter),
            Rename(tower + "linear_proj.norm1.{p}", "connector.norm.{p}"),
            Rename(tower + "conv.{p}", "connector.conv.{p}"),
            *(
                Reshape(f"{tower}{a}", f"connector.{b}", (1, 1, language.hidden_dim), (language.hidden_dim,))
                for a, b in (("boi", "begin"), ("eoi", "end"))
            ),
        )
    )


LAYOUT = Layout(
    name="cogvlm",
    family="cogvlm",
    model_types=("cogvlm",),
    config_type=CogVLMConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
