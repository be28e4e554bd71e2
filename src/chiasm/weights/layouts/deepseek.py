"""DeepSeek-V3's kin as published (``deepseek_v3``): Moonlight, the language model of Kimi-VL.

Known departures: YaRN's rotary positions are refused, and so are layers that predict several tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.language.mixture import MixtureDecoderConfig
from chiasm.nn.mla import LatentShape
from chiasm.nn.moe import SigmoidRouterConfig
from chiasm.nn.positions import RotaryConfig
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.rules import Drop, Rename, Rule, Stack, Tied

DEFAULTS: dict[str, Any] = {
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "routed_scaling_factor": 2.5,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
    "n_group": 8,
    "topk_group": 4,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "rope_interleave": True,
    "tie_word_embeddings": False,
}


def decoder_config(config: Mapping[str, Any], where: str = "text_config") -> MixtureDecoderConfig:
    """Read a ``deepseek_v3`` config.

    Args:
        config: as stored; a missing ``q_lora_rank`` means none, as in Moonlight's file.
        where: how errors name it.

    Returns:
        Ours.

    Raises:
        ConfigError: a variant that we don't build.
    """
    fields = Fields(config, DEFAULTS, where)
    for key, only in (("scoring_func", "sigmoid"), ("topk_method", "noaux_tc"), ("moe_layer_freq", 1)):
        fields.expect(key, only)
    fields.expect("attention_bias", False)
    fields.expect("rope_interleave", True)
    rope = {**fields.part("rope_scaling"), **fields.part("rope_parameters")}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ConfigError("rope_unknown", f"{where} asks for {kind!r} rotary positions; known here is default")
    query = fields.get("q_lora_rank")
    return MixtureDecoderConfig(
        vocab_size=fields.count("vocab_size"),
        hidden_dim=fields.count("hidden_size"),
        num_layers=fields.count("num_hidden_layers"),
        num_heads=fields.count("num_attention_heads"),
        num_kv_heads=fields.count("num_attention_heads"),
        mlp_dim=fields.count("intermediate_size"),
        context_length=fields.count("max_position_embeddings"),
        norm_eps=fields.number("rms_norm_eps"),
        rotary=RotaryConfig(theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)),
        tie_embeddings=fields.flag("tie_word_embeddings"),
        act=fields.get("hidden_act"),
        num_experts=fields.count("n_routed_experts"),
        top_k=fields.count("num_experts_per_tok"),
        expert_dim=fields.count("moe_intermediate_size"),
        shared_dim=fields.count("moe_intermediate_size") * fields.count("n_shared_experts"),
        router=SigmoidRouterConfig(
            groups=fields.count("n_group"),
            top_groups=fields.count("topk_group"),
            normalise=fields.flag("norm_topk_prob"),
            scale=fields.number("routed_scaling_factor"),
        ),
        dense_layers=int(fields.get("first_k_dense_replace")),
        latent=LatentShape(
            latent_dim=fields.count("kv_lora_rank"),
            query_latent_dim=None if query is None else fields.count("q_lora_rank"),
            nope_dim=fields.count("qk_nope_head_dim"),
            rope_dim=fields.count("qk_rope_head_dim"),
            value_dim=fields.count("v_head_dim"),
        ),
    )


def decoder_dict(config: MixtureDecoderConfig) -> dict[str, Any]:
    """The inverse of `decoder_config`.

    Raises:
        ConfigError: no latent attention, or experts chosen by a softmax.
    """
    latent, router = config.latent, config.router
    if latent is None or not isinstance(router, SigmoidRouterConfig) or config.shared_dim % config.expert_dim:
        raise ConfigError("config_unpublished", "DeepSeek-V3 has latent attention and chooses experts by sigmoids")
    assert config.rotary is not None
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_dim,
        "intermediate_size": config.mlp_dim,
        "moe_intermediate_size": config.expert_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "n_shared_experts": config.shared_dim // config.expert_dim,
        "n_routed_experts": config.num_experts,
        "routed_scaling_factor": router.scale,
        "kv_lora_rank": latent.latent_dim,
        "q_lora_rank": latent.query_latent_dim,
        "qk_rope_head_dim": latent.rope_dim,
        "v_head_dim": latent.value_dim,
        "qk_nope_head_dim": latent.nope_dim,
        "n_group": router.groups,
        "topk_group": router.top_groups,
        "num_experts_per_tok": config.top_k,
        "first_k_dense_replace": config.dense_layers,
        "norm_topk_prob": router.normalise,
        "hidden_act": config.act,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rotary.theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rotary.theta},
        "num_nextn_predict_layers": 0,
        "tie_word_embeddings": config.tie_embeddings,
    }


def expert_rules(theirs: str, ours: str, count: int) -> tuple[Rule, ...]:
    """Stacked experts: one tensor an expert and branch there, one a layer here."""
    names = [f"{theirs}experts.{expert}." for expert in range(count)]
    pairs = tuple(f"{name}{branch}_proj.weight" for name in names for branch in ("gate", "up"))
    return (
        Stack(pairs, ours + "gate_up", parts=2),
        Stack(tuple(f"{name}down_proj.weight" for name in names), ours + "down"),
    )


def decoder_rules(config: MixtureDecoderConfig) -> tuple[Rule, ...]:
    """The rules between ``DeepseekV3ForCausalLM``'s published names and `Decoder`'s."""
    layer, block = "model.layers.{i}.", "blocks.{i}."
    head: Rule = Rename("lm_head.weight", "lm_head.weight")
    if config.tie_embeddings:
        head = Tied("lm_head.weight", of="model.embed_tokens.weight")
    attention = (
        ("q_proj", "q_proj"), ("q_a_proj", "q_down"), ("q_a_layernorm", "q_norm"), ("q_b_proj", "q_up"),
        ("kv_a_proj_with_mqa", "kv_down"), ("kv_a_layernorm", "kv_norm"), ("kv_b_proj", "kv_up"), ("o_proj", "o_proj"),
    )  # fmt: skip
    names = ("gate_proj", "up_proj", "down_proj")
    return (
        Rename("model.embed_tokens.weight", "embed_tokens.weight"),
        Rename("model.norm.weight", "norm.weight"),
        head,
        Rename(layer + "input_layernorm.weight", block + "norm1.weight"),
        Rename(layer + "post_attention_layernorm.weight", block + "norm2.weight"),
        *(Rename(f"{layer}self_attn.{a}.weight", f"{block}attn.{b}.weight") for a, b in attention),
        *(Rename(f"{layer}mlp.{n}.weight", f"{block}mlp.{n}.weight") for n in names),
        *(Rename(f"{layer}mlp.shared_experts.{n}.weight", f"{block}mlp.shared.{n}.weight") for n in names),
        Rename(layer + "mlp.gate.weight", block + "mlp.router.weight"),
        Rename(layer + "mlp.gate.e_score_correction_bias", block + "mlp.router.bias"),
        *expert_rules(layer + "mlp.", block + "mlp.", config.num_experts),
        Drop(layer + "self_attn.rotary_emb.inv_freq"),
    )
