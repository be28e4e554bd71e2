"""Kosmos-2 as transformers publishes it (``kosmos-2``); saved and in-memory names are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.connectors.cross_attention_resampler import LatentAttentionConfig
from chiasm.core.errors import ConfigError
from chiasm.language.decoder import DecoderConfig
from chiasm.models.kosmos import KosmosConfig
from chiasm.nn.additive_positions import SinusoidPositionsConfig
from chiasm.vision.patches import FinalStates
from chiasm.weights.layouts import towers
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.rules import Drop, Rename, Rule, Tied, prefixed
from chiasm.weights.table import Table

TEXT: dict[str, Any] = {
    "vocab_size": 65037,
    "max_position_embeddings": 2048,
    "embed_dim": 2048,
    "layers": 24,
    "ffn_dim": 8192,
    "attention_heads": 32,
    "activation_function": "gelu",
    "layer_norm_eps": 1e-5,
    "scale_embedding": True,
    "tie_word_embeddings": True,
    "pad_token_id": 1,
    "add_cross_attention": False,
}
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
SLOT = 4  # published prompts fill a picture's place with words that aren't read; the first of them


def config_from(config: Mapping[str, Any]) -> KosmosConfig:
    """Read a ``kosmos-2`` config.

    Args:
        config: as stored.

    Returns:
        Ours.

    Raises:
        ConfigError: a part that we don't build.
    """
    outer = Fields(config, {"latent_query_num": 64}, "config.json")
    text = Fields(outer.part("text_config"), TEXT, "text_config")
    text.expect("add_cross_attention", False)
    width, heads = text.count("embed_dim"), text.count("attention_heads")
    vision = towers.vision_config(
        {**VISION, **outer.part("vision_config"), "model_type": "clip_vision_model"}, "clip_vision_model"
    )
    language = DecoderConfig(
        vocab_size=text.count("vocab_size"),
        hidden_dim=width,
        num_layers=text.count("layers"),
        num_heads=heads,
        num_kv_heads=heads,
        mlp_dim=text.count("ffn_dim"),
        context_length=text.count("max_position_embeddings"),
        norm_eps=text.number("layer_norm_eps"),
        rotary=None,
        positions=SinusoidPositionsConfig(offset=text.get("pad_token_id") + 1),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        tie_embeddings=text.flag("tie_word_embeddings"),
        act=text.get("activation_function"),
        rms_norm=False,
        gated=False,
        inner_norms=True,
        embed_scale=width**0.5 if text.flag("scale_embedding") else 1.0,
    )
    connector = LatentAttentionConfig(
        input_dim=vision.hidden_dim, output_dim=width, num_latents=outer.count("latent_query_num"), num_heads=heads
    )
    slot = config.get("image_token_id", SLOT)
    return KosmosConfig(vision=vision, connector=connector, language=language, image_token_id=slot)


def config_to(config: KosmosConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: another connector or language model than the published class has.
    """
    language, connector = config.language, config.connector
    sinusoid = isinstance(language.positions, SinusoidPositionsConfig) and language.inner_norms and not language.gated
    fits = isinstance(connector, LatentAttentionConfig) and connector.num_heads == language.num_heads
    if not (sinusoid and fits) or config.reading != FinalStates():
        raise ConfigError("config_unpublished", "transformers' Kosmos-2 has latents over a Magneto with sinusoids only")
    assert isinstance(connector, LatentAttentionConfig) and isinstance(language.positions, SinusoidPositionsConfig)
    vision = towers.vision_dict(config.vision)
    return {
        "architectures": ["Kosmos2ForConditionalGeneration"],
        "model_type": "kosmos-2",
        "latent_query_num": connector.num_latents,
        "image_token_id": config.image_token_id,
        "text_config": {
            "model_type": "kosmos_2_text_model",
            "vocab_size": language.vocab_size,
            "max_position_embeddings": language.context_length,
            "embed_dim": language.hidden_dim,
            "layers": language.num_layers,
            "ffn_dim": language.mlp_dim,
            "attention_heads": language.num_heads,
            "activation_function": language.act,
            "layer_norm_eps": language.norm_eps,
            "scale_embedding": language.embed_scale != 1.0,
            "tie_word_embeddings": language.tie_embeddings,
            "pad_token_id": language.positions.offset - 1,
        },
        "vision_config": {**vision, "model_type": "kosmos_2_vision_model"},
        "tie_word_embeddings": language.tie_embeddings,
    }


def _language_rules(config: DecoderConfig) -> tuple[Rule, ...]:
    layer, block = "model.layers.{i}.", "blocks.{i}."
    head: Rule = Rename("lm_head.weight", "lm_head.weight")
    if config.tie_embeddings:
        head = Tied("lm_head.weight", of="model.embed_tokens.weight")
    parts = {
        "self_attn.out_proj": "attn.o_proj",
        "self_attn.inner_attn_ln": "attn.inner_norm",
        "self_attn_layer_norm": "norm1",
        "ffn.fc1": "mlp.fc1",
        "ffn.fc2": "mlp.fc2",
        "ffn.ffn_layernorm": "mlp.inner_norm",
        "final_layer_norm": "norm2",
    }
    return (
        Rename("model.embed_tokens.weight", "embed_tokens.weight"),
        Rename("model.layer_norm.{p}", "norm.{p}"),
        head,
        *(Rename(f"{layer}self_attn.{n}_proj.{{p}}", f"{block}attn.{n}_proj.{{p}}") for n in "qkv"),
        *(Rename(f"{layer}{theirs}.{{p}}", f"{block}{ours}.{{p}}") for theirs, ours in parts.items()),
        Drop("model.embed_positions.weights"),
    )


def table(config: KosmosConfig) -> Table:
    """The whole table."""
    connector = "image_to_text_projection."
    return Table(
        (
            *prefixed(towers.vision_rules(), "vision_model.model.", "vision."),
            Rename(connector + "dense.{p}", "connector.dense.{p}"),
            Rename(connector + "latent_query", "connector.latents"),
            *(Rename(f"{connector}x_attn.{n}_proj.{{p}}", f"connector.attn.{n}_proj.{{p}}") for n in "qkv"),
            Rename(connector + "x_attn.out_proj.{p}", "connector.attn.o_proj.{p}"),
            *prefixed(_language_rules(config.language), "text_model.", "language."),
        )
    )


LAYOUT = Layout(
    name="kosmos2",
    family="kosmos",
    model_types=("kosmos-2",),
    config_type=KosmosConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
