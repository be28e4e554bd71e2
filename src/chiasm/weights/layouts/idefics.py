"""IDEFICS as transformers publishes it (``idefics``); saved and in-memory names are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chiasm.connectors.resampler import ResamplerConfig
from chiasm.core.errors import ConfigError
from chiasm.fusion.gated_cross_attention import GatesConfig
from chiasm.models.idefics import IdeficsConfig
from chiasm.vision.patches import PatchSelection
from chiasm.weights.layouts import llama, towers
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.rules import Drop, Join, Rename, Reshape, Rule, prefixed
from chiasm.weights.table import Table

DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "additional_vocab_size": 0,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "alpha_type": "float",
    "cross_layer_interval": 1,
    "qk_layer_norms": False,
    "use_resampler": False,
    "eos_token_id": 2,
}
VISION: dict[str, Any] = {
    "embed_dim": 768,
    "image_size": 224,
    "intermediate_size": 5120,
    "patch_size": 14,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
PERCEIVER: dict[str, Any] = {
    "resampler_n_latents": 64,
    "resampler_depth": 6,
    "resampler_n_heads": 16,
    "resampler_head_dim": 96,
    "qk_layer_norms_perceiver": False,
}


def config_from(config: Mapping[str, Any]) -> IdeficsConfig:
    """Read an ``idefics`` config.

    Args:
        config: as stored.

    Returns:
        Ours; `<image>` is the second of the added words, as in the published tokenizers.

    Raises:
        ConfigError: a model without a resampler, or a part that we don't build.
    """
    fields = Fields(config, DEFAULTS, "config.json")
    fields.expect("use_resampler", True)
    fields.expect("alpha_type", "float", "vector")
    vision = Fields(fields.part("vision_config"), VISION, "vision_config")
    perceiver = Fields(fields.part("perceiver_config"), PERCEIVER, "perceiver_config")
    words, added = fields.count("vocab_size"), fields.get("additional_vocab_size")
    stored = {
        **{key: fields.get(key) for key in DEFAULTS},
        **config,
        "model_type": "llama",
        "vocab_size": words + added,
    }
    language = llama.decoder_config(stored)
    width = vision.count("embed_dim")
    end = fields.get("eos_token_id")
    return IdeficsConfig(
        vision=towers.vision_config(
            {**{key: vision.get(key) for key in VISION}, "hidden_size": width, "model_type": "clip_vision_model"},
            "clip_vision_model",
        ),
        connector=ResamplerConfig(
            input_dim=width,
            output_dim=None,
            num_latents=perceiver.count("resampler_n_latents"),
            num_layers=perceiver.count("resampler_depth"),
            num_heads=perceiver.count("resampler_n_heads"),
            head_dim=perceiver.count("resampler_head_dim"),
            mlp_dim=4 * width,
            act="relu",
            qk_norm=perceiver.flag("qk_layer_norms_perceiver"),
        ),
        language=language,
        gates=GatesConfig(
            every=fields.count("cross_layer_interval"),
            first=0,
            num_heads=language.num_heads,
            head_dim=language.head_width,
            mlp_dim=language.mlp_dim,
            act=language.act,
            norm_eps=language.norm_eps,
            rms_norm=True,
            gated_mlp=True,
            qk_norm=fields.flag("qk_layer_norms"),
            gate_dim=language.hidden_dim if fields.get("alpha_type") == "vector" else 1,
        ),
        image_token_id=words + 1 if added else words - 1,
        added_words=added,
        end_id=end[0] if isinstance(end, list) else end,
    )


def config_to(config: IdeficsConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: parts that the published class can't hold.
    """
    gates, language, resampler = config.gates, config.language, config.connector
    words = language.vocab_size - config.added_words
    own = (gates.num_heads, gates.head_dim, gates.mlp_dim, gates.act, gates.norm_eps)
    plain = (language.num_heads, language.head_width, language.mlp_dim, language.act, language.norm_eps)
    odd = resampler.output_dim is not None or resampler.max_frames or resampler.mlp_dim != 4 * resampler.input_dim
    slot = words + 1 if config.added_words else words - 1
    reading = config.reading != PatchSelection(layer=-1, keep_class_token=True)
    if own != plain or gates.first or odd or resampler.act != "relu" or reading or config.image_token_id != slot:
        raise ConfigError("config_unpublished", "transformers' IDEFICS can't hold these gates, latents or words")
    if gates.gate_dim not in (1, language.hidden_dim) or not (gates.rms_norm and gates.gated_mlp):
        raise ConfigError("config_unpublished", "transformers' IDEFICS can't hold these gates")
    vision = towers.vision_dict(config.vision)
    vision["embed_dim"] = vision.pop("hidden_size")
    text = llama.decoder_dict(replace(language, vocab_size=words))
    for key in ("architectures", "model_type", "num_key_value_heads", "head_dim", "attention_bias", "mlp_bias"):
        text.pop(key, None)
    return {
        **text,
        "architectures": ["IdeficsForVisionText2Text"],
        "model_type": "idefics",
        "additional_vocab_size": config.added_words,
        "alpha_type": "float" if gates.gate_dim == 1 else "vector",
        "cross_layer_interval": gates.every,
        "qk_layer_norms": gates.qk_norm,
        "use_resampler": True,
        "eos_token_id": config.end_id,
        "vision_config": {**vision, "model_type": "idefics_vision"},
        "perceiver_config": {
            "use_resampler": True,
            "resampler_n_latents": resampler.num_latents,
            "resampler_depth": resampler.num_layers,
            "resampler_n_heads": resampler.num_heads,
            "resampler_head_dim": resampler.head_dim,
            "qk_layer_norms_perceiver": resampler.qk_norm,
        },
    }


def _resampler_rules() -> tuple[Rule, ...]:
    attention, mlp, block = "blocks.{i}.0.", "blocks.{i}.1.", "blocks.{i}."
    return (
        Rename("latents", "latents"),
        Rename("layer_norm.{p}", "norm.{p}"),
        Rename(attention + "context_layer_norm.{p}", block + "norm_context.{p}"),
        Rename(attention + "latents_layer_norm.{p}", block + "norm1.{p}"),
        *(Rename(f"{attention}{n}_layer_norm.{{p}}", f"{block}attn.{n}_norm.{{p}}") for n in "qk"),
        *(Rename(f"{attention}{n}_proj.{{p}}", f"{block}attn.{n}_proj.{{p}}") for n in "qkv"),
        Rename(attention + "output_proj.{p}", block + "attn.o_proj.{p}"),
        Rename(mlp + "ln.{p}", block + "norm2.{p}"),
        Rename(mlp + "fc.{p}", block + "mlp.fc1.{p}"),
        Rename(mlp + "c_proj.{p}", block + "mlp.fc2.{p}"),
    )


def _gate_rules(vector: bool) -> tuple[Rule, ...]:
    def gate(theirs: str, ours: str) -> Rule:
        return Reshape(theirs, ours, (1, 1, -1), (-1,)) if vector else Rename(theirs, ours)

    return (
        gate("alpha_cross_attn", "attn_gate"),
        gate("alpha_dense", "mlp_gate"),
        Rename("input_layernorm.weight", "norm1.weight"),
        Rename("post_attention_layernorm.weight", "norm2.weight"),
        *(Rename(f"cross_attn.{n}_proj.weight", f"cross_attn.{n}_proj.weight") for n in "qkvo"),
        *(Rename(f"cross_attn.{n}_layer_norm.weight", f"cross_attn.{n}_norm.weight") for n in "qk"),
        *(Rename(f"mlp.{n}_proj.weight", f"mlp.{n}_proj.weight") for n in ("gate", "up", "down")),
        Drop("cross_attn.rotary_emb.inv_freq"),
    )


def table(config: IdeficsConfig) -> Table:
    """The whole table; the n-th gated layer stands before layer n · interval."""
    language, gates = config.language, config.gates
    rules: list[Rule] = [
        rule
        for rule in prefixed(llama.decoder_rules(language), "", "language.")
        if not {"model.embed_tokens.weight", "lm_head.weight"} & set(rule.patterns("theirs"))
    ]
    if config.added_words:
        sizes = (language.vocab_size - config.added_words, config.added_words)
        tables = (
            ("model.embed_tokens.", "additional_embedding.", "embed_tokens"),
            ("lm_head.", "additional_fc.", "lm_head"),
        )
        rules += [
            Join((f"{top}weight", f"{top}{more}weight"), f"language.{ours}.weight", sizes) for top, more, ours in tables
        ]
    else:
        rules += [
            Rename("model.embed_tokens.weight", "language.embed_tokens.weight"),
            Rename("lm_head.weight", "language.lm_head.weight"),
        ]
    for number, layer in enumerate(gates.layers(language.num_layers)):
        rules += prefixed(
            _gate_rules(gates.gate_dim > 1), f"model.gated_cross_attn_layers.{number}.", f"gates.{layer}."
        )
    return Table(
        (
            *rules,
            *prefixed(towers.vision_rules(), "model.vision_model.", "vision."),
            *prefixed(_resampler_rules(), "model.perceiver_resampler.", "connector."),
        )
    )


LAYOUT = Layout(
    name="idefics",
    family="idefics",
    model_types=("idefics",),
    config_type=IdeficsConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
