"""InternLM-XComposer2-4KHD as its authors publish it (``InternLMXComposer2ForCausalLM``).

InternLM2's names, with ``Plora_A`` and ``Plora_B`` beside every projection; the fused projection has one ``Plora_A``,
and its ``Plora_B`` is interleaved as the projection is. The tower's shape stands in code: it is CLIP ViT-L/14-336,
unless the ``vision_config`` that we write says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.connectors.mlp import MLPConnectorConfig
from chiasm.core.errors import ConfigError
from chiasm.fusion.routed_weights import PartialLoraDecoderConfig
from chiasm.models.xcomposer import JOIN, XComposerConfig
from chiasm.nn.positions import RotaryConfig
from chiasm.weights.layouts import towers
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.layouts.llava import TOWER
from chiasm.weights.rules import Drop, Interleaved, Rename, Reshape, Rule, prefixed
from chiasm.weights.table import Table

DEFAULTS: dict[str, Any] = {
    "vocab_size": 92544,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "bias": False,
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "image_token_id": 0,
    "plora_rank": 256,
    "max_tiles": 55,
}


def config_from(config: Mapping[str, Any]) -> XComposerConfig:
    """Read an ``internlmxcomposer2`` config.

    Args:
        config: as stored.

    Returns:
        Ours.

    Raises:
        ConfigError: a variant that we don't build.
    """
    fields = Fields(config, DEFAULTS, "config.json")
    fields.expect("bias", False)
    vision = towers.vision_config(fields.part("vision_config") or TOWER, "clip_vision_model")
    language = PartialLoraDecoderConfig(
        vocab_size=fields.count("vocab_size"),
        hidden_dim=fields.count("hidden_size"),
        num_layers=fields.count("num_hidden_layers"),
        num_heads=fields.count("num_attention_heads"),
        num_kv_heads=fields.count("num_key_value_heads"),
        mlp_dim=fields.count("intermediate_size"),
        context_length=fields.count("max_position_embeddings"),
        norm_eps=fields.number("rms_norm_eps"),
        rotary=RotaryConfig(theta=fields.number("rope_theta")),
        tie_embeddings=fields.flag("tie_word_embeddings"),
        act=fields.get("hidden_act"),
        rank=fields.count("plora_rank"),
    )
    return XComposerConfig(
        vision=vision,
        connector=MLPConnectorConfig(input_dim=vision.hidden_dim * JOIN**2, output_dim=language.hidden_dim),
        language=language,
        image_token_id=int(fields.get("image_token_id")),
        max_tiles=fields.count("max_tiles"),
    )


def config_to(config: XComposerConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: a language model with biases, which InternLM2 hasn't.
    """
    language = config.language
    if language.qkv_bias:
        raise ConfigError("config_unpublished", "InternLM2 as published has no biases")
    assert language.rotary is not None
    return {
        "architectures": ["InternLMXComposer2ForCausalLM"],
        "model_type": "internlmxcomposer2",
        "vocab_size": language.vocab_size,
        "hidden_size": language.hidden_dim,
        "intermediate_size": language.mlp_dim,
        "num_hidden_layers": language.num_layers,
        "num_attention_heads": language.num_heads,
        "num_key_value_heads": language.num_kv_heads,
        "hidden_act": language.act,
        "max_position_embeddings": language.context_length,
        "rms_norm_eps": language.norm_eps,
        "bias": False,
        "rope_theta": language.rotary.theta,
        "tie_word_embeddings": language.tie_embeddings,
        "image_token_id": config.image_token_id,
        "plora_rank": language.rank,
        "max_tiles": config.max_tiles,
        "vision_config": towers.vision_dict(config.vision),
    }


def _language_rules(language: PartialLoraDecoderConfig) -> tuple[Rule, ...]:
    layer, block = "model.layers.{i}.", "language.blocks.{i}."
    group = language.num_heads // language.num_kv_heads
    q, k, v = (f"{block}attn.{n}_proj.weight" for n in "qkv")
    extra_q, extra_k, extra_v = (f"{block}attn.lora_{n}.weight" for n in "qkv")
    rules: list[Rule] = [
        Interleaved(layer + "attention.wqkv.weight", (q, k, v), language.num_kv_heads, group),
        Rename(layer + "attention.wqkv.Plora_A.weight", block + "attn.lora_down.weight"),
        Interleaved(layer + "attention.wqkv.Plora_B.weight", (extra_q, extra_k, extra_v), language.num_kv_heads, group),
        Rename(layer + "attention_norm.weight", block + "norm1.weight"),
        Rename(layer + "ffn_norm.weight", block + "norm2.weight"),
        Drop(layer + "attention.rotary_emb.inv_freq"),
    ]
    parts = (
        ("attention.wo", "attn.o_proj", "attn.lora_o"), ("feed_forward.w1", "mlp.gate_proj", "mlp.lora_gate"),
        ("feed_forward.w3", "mlp.up_proj", "mlp.lora_up"), ("feed_forward.w2", "mlp.down_proj", "mlp.lora_down"),
    )  # fmt: skip
    for theirs, plain, extra in parts:
        rules += [
            Rename(f"{layer}{theirs}.weight", f"{block}{plain}.weight"),
            Rename(f"{layer}{theirs}.Plora_A.weight", f"{block}{extra}.down.weight"),
            Rename(f"{layer}{theirs}.Plora_B.weight", f"{block}{extra}.up.weight"),
        ]
    return tuple(rules)


def table(config: XComposerConfig) -> Table:
    """The whole table."""
    tower, width = "vit.vision_tower.", config.connector.input_dim
    return Table(
        (
            *prefixed(towers.vision_rules(), tower + "vision_model.", "vision."),
            Rename("vision_proj.0.{p}", "connector.fc1.{p}"),
            Rename("vision_proj.2.{p}", "connector.fc2.{p}"),
            Reshape("plora_sub_GN", "newline", (1, 1, 1, width), (width,)),
            Reshape("plora_glb_GN", "separator", (1, 1, width), (width,)),
            Rename("model.tok_embeddings.weight", "language.embed_tokens.weight"),
            Rename("model.norm.weight", "language.norm.weight"),
            Rename("output.weight", "language.lm_head.weight"),
            *_language_rules(config.language),
        )
    )


LAYOUT = Layout(
    name="xcomposer",
    family="xcomposer",
    model_types=("internlmxcomposer2",),
    config_type=XComposerConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
