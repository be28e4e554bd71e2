"""Qwen-VL as its authors publish it (``QWenLMHeadModel`` with a ``visual`` part).

The tower stands inside the language model, ``transformer.visual.…``, queries, keys and values of a head side by side;
the resampler is torch's own attention; the language model fuses its three projections, and its MLP multiplies
``w1(x)`` by silu(``w2(x)``).

Beyond ``seq_length`` rotary positions are stretched and queries grow (``use_dynamic_ntk``, ``use_logn_attn``).
Departure: here they do so in training, too, and by each row's own length; published code does neither while it trains,
and goes by the length of the padded batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.connectors.cross_attention_resampler import GridResamplerConfig
from chiasm.core.errors import ConfigError
from chiasm.language.decoder import DecoderConfig
from chiasm.models.assembly import llama
from chiasm.models.qwen_vl import IMAGE_PAD, QwenVLConfig, tower
from chiasm.nn.positions import LogRotaryConfig, RotaryConfig
from chiasm.nn.rotary_scaling import DoublingScaling
from chiasm.vision.patches import PatchSelection
from chiasm.vision.vit import ViTConfig
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.rules import Drop, Interleaved, Rename, Rule, Split, Transpose, prefixed
from chiasm.weights.table import Table

DEFAULTS: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "kv_channels": 128,
    "intermediate_size": 22016,
    "max_position_embeddings": 8192,
    "seq_length": 2048,
    "layer_norm_epsilon": 1e-6,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "no_bias": True,
    "tie_word_embeddings": False,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
}
VISUAL: dict[str, Any] = {
    "heads": 16,
    "image_size": 448,
    "image_start_id": IMAGE_PAD - 2,
    "layers": 48,
    "mlp_ratio": 4.9231,
    "output_dim": 4096,
    "patch_size": 14,
    "width": 1664,
    "n_queries": 256,
    "position_grid": 16,  # this and the next are stored by us alone, where they differ from the published ones
    "resampler_heads": None,
}
READING = PatchSelection(layer=-1)
_HEAD = 128  # width of the resampler's heads


def config_from(config: Mapping[str, Any]) -> QwenVLConfig:
    """Read a ``qwen`` config with a ``visual`` part.

    Args:
        config: as stored.

    Returns:
        Ours.

    Raises:
        ConfigError: a part that we don't build.
    """
    fields = Fields(config, DEFAULTS, "config.json")
    if not config.get("visual"):
        raise ConfigError("config_variant", "config.json has no visual part: a Qwen without pictures isn't a Qwen-VL")
    fields.expect("no_bias", True)
    fields.expect("rotary_pct", 1.0)
    visual = Fields(fields.part("visual"), VISUAL, "visual")
    width, heads, out = visual.count("width"), visual.count("heads"), visual.count("output_dim")
    vision = tower(
        visual.count("image_size"),
        visual.count("patch_size"),
        width,
        visual.count("layers"),
        heads,
        int(width * visual.number("mlp_ratio")),
        visual.count("position_grid"),
    )
    hidden, attention = fields.count("hidden_size"), fields.count("num_attention_heads")
    language = llama(
        fields.count("vocab_size"),
        hidden,
        fields.count("num_hidden_layers"),
        attention,
        attention,
        fields.count("intermediate_size") // 2,
        context=fields.count("max_position_embeddings"),
        eps=fields.number("layer_norm_epsilon"),
        rotary=_rotary(fields),
        qkv_bias=True,
        head_dim=None if fields.count("kv_channels") * attention == hidden else fields.count("kv_channels"),
        tie_embeddings=fields.flag("tie_word_embeddings"),
    )
    queries = visual.count("n_queries")
    connector = GridResamplerConfig(
        input_dim=width,
        output_dim=out,
        grid=round(queries**0.5),
        num_heads=visual.get("resampler_heads") or max(1, out // _HEAD),
    )
    slot = visual.count("image_start_id") + 2
    return QwenVLConfig(vision=vision, connector=connector, language=language, image_token_id=slot)


def _rotary(fields: Fields) -> RotaryConfig:
    theta, trained = fields.number("rotary_emb_base"), fields.count("seq_length")
    scaling = DoublingScaling(original_context=trained) if fields.flag("use_dynamic_ntk") else None
    if fields.flag("use_logn_attn"):
        return LogRotaryConfig(theta=theta, scaling=scaling, log_context=trained)
    return RotaryConfig(theta=theta, scaling=scaling)


def _rotary_fields(rotary: RotaryConfig, context: int) -> dict[str, Any]:
    """The inverse of `_rotary`.

    Raises:
        ConfigError: the published class has no such positions.
    """
    scaling, grows = rotary.scaling, isinstance(rotary, LogRotaryConfig)
    trained = {scaling.original_context} if isinstance(scaling, DoublingScaling) else set()
    trained |= {rotary.log_context} if isinstance(rotary, LogRotaryConfig) else set()
    stored = {
        "rotary_emb_base": rotary.theta,
        "seq_length": min(trained, default=context),
        "use_dynamic_ntk": scaling is not None,
        "use_logn_attn": grows,
    }
    if _rotary(Fields(stored, DEFAULTS, "config.json")) != rotary:
        raise ConfigError("config_unpublished", "Qwen-VL's layout holds Qwen's own rotary positions alone")
    return stored


def config_to(config: QwenVLConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: another connector, tower or language model than the published class has.
    """
    language, connector, vision = config.language, config.connector, config.vision
    if not isinstance(connector, GridResamplerConfig) or connector.norm_eps != 1e-6:
        raise ConfigError("config_unpublished", f"Qwen-VL's layout holds no {type(connector).__name__}")
    if not isinstance(vision, ViTConfig) or not _published(vision) or not _qwen(language) or config.reading != READING:
        raise ConfigError("config_unpublished", "Qwen-VL's layout holds OpenCLIP's ViT and Qwen alone")
    assert language.rotary is not None
    visual: dict[str, Any] = {
        "heads": vision.num_heads,
        "image_size": vision.image_size,
        "image_start_id": config.image_token_id - 2,
        "layers": vision.num_layers,
        "mlp_ratio": (vision.mlp_dim + 0.5) / vision.hidden_dim,  # published code rounds the product down
        "output_dim": connector.output_dim,
        "patch_size": vision.patch_size,
        "width": vision.hidden_dim,
        "n_queries": connector.grid**2,
    }
    if vision.position_grid != VISUAL["position_grid"]:
        visual["position_grid"] = vision.position_grid
    if connector.num_heads != max(1, connector.output_dim // _HEAD):
        visual["resampler_heads"] = connector.num_heads
    return {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "vocab_size": language.vocab_size,
        "hidden_size": language.hidden_dim,
        "num_hidden_layers": language.num_layers,
        "num_attention_heads": language.num_heads,
        "kv_channels": language.head_width,
        "intermediate_size": 2 * language.mlp_dim,
        "max_position_embeddings": language.context_length,
        "layer_norm_epsilon": language.norm_eps,
        **_rotary_fields(language.rotary, language.context_length),
        "rotary_pct": 1.0,
        "no_bias": True,
        "tie_word_embeddings": language.tie_embeddings,
        "visual": visual,
    }


def _published(vision: ViTConfig) -> bool:
    own = tower(
        vision.image_size, vision.patch_size, vision.hidden_dim, vision.num_layers, vision.num_heads, vision.mlp_dim,
        vision.position_grid,
    )  # fmt: skip
    return own == vision and vision.position_grid is not None


def _qwen(language: DecoderConfig) -> bool:
    own = llama(
        language.vocab_size, language.hidden_dim, language.num_layers, language.num_heads, language.num_heads,
        language.mlp_dim, context=language.context_length, eps=language.norm_eps, qkv_bias=True,
        head_dim=language.head_dim, tie_embeddings=language.tie_embeddings, rotary=language.rotary,
    )  # fmt: skip
    return own == language


def visual_rules(heads: int) -> tuple[Rule, ...]:
    """The tower's and the resampler's tensors."""
    block, ours, pool = "transformer.resblocks.{i}.", "vision.blocks.{i}.", "connector."
    queries = tuple(f"{ours}attn.{n}_proj.{{p}}" for n in "qkv")
    fused = tuple(f"{pool}attn.{n}_proj." for n in "qkv")
    return (
        Rename("positional_embedding", "vision.pos_embed"),
        Rename("conv1.weight", "vision.patch_embed.weight"),
        Rename("ln_pre.{p}", "vision.norm_pre.{p}"),
        Rename(block + "ln_1.{p}", ours + "norm1.{p}"),
        Rename(block + "ln_2.{p}", ours + "norm2.{p}"),
        Interleaved(block + "attn.in_proj.{p}", (queries[0], queries[1], queries[2]), heads, 1),
        Rename(block + "attn.out_proj.{p}", ours + "attn.o_proj.{p}"),
        Rename(block + "mlp.c_fc.{p}", ours + "mlp.fc1.{p}"),
        Rename(block + "mlp.c_proj.{p}", ours + "mlp.fc2.{p}"),
        Rename("attn_pool.query", pool + "queries"),
        Rename("attn_pool.pos_embed", pool + "pos_embed"),
        Rename("attn_pool.kv_proj.weight", pool + "kv_proj.weight"),
        Rename("attn_pool.ln_q.{p}", pool + "norm_queries.{p}"),
        Rename("attn_pool.ln_kv.{p}", pool + "norm_context.{p}"),
        Split("attn_pool.attn.in_proj_weight", tuple(name + "weight" for name in fused)),
        Split("attn_pool.attn.in_proj_bias", tuple(name + "bias" for name in fused)),
        Rename("attn_pool.attn.out_proj.{p}", pool + "attn.o_proj.{p}"),
        Rename("ln_post.{p}", pool + "norm_post.{p}"),
        Transpose("proj", pool + "proj.weight"),
    )


def table(config: QwenVLConfig) -> Table:
    """The whole table."""
    layer, block = "transformer.h.{i}.", "language.blocks.{i}."
    assert isinstance(config.vision, ViTConfig)
    head: tuple[Rule, ...] = (Rename("lm_head.weight", "language.lm_head.weight"),)
    return Table(
        (
            *prefixed(visual_rules(config.vision.num_heads), "transformer.visual.", ""),
            Rename("transformer.wte.weight", "language.embed_tokens.weight"),
            Rename(layer + "ln_1.weight", block + "norm1.weight"),
            Rename(layer + "ln_2.weight", block + "norm2.weight"),
            Split(layer + "attn.c_attn.{p}", tuple(f"{block}attn.{n}_proj.{{p}}" for n in "qkv")),
            Rename(layer + "attn.c_proj.weight", block + "attn.o_proj.weight"),
            Rename(layer + "mlp.w1.weight", block + "mlp.up_proj.weight"),
            Rename(layer + "mlp.w2.weight", block + "mlp.gate_proj.weight"),
            Rename(layer + "mlp.c_proj.weight", block + "mlp.down_proj.weight"),
            Rename("transformer.ln_f.weight", "language.norm.weight"),
            *(() if config.language.tie_embeddings else head),
            Drop("transformer.rotary_emb.inv_freq"),
            Drop(layer + "attn.rotary_emb.inv_freq"),
        )
    )


LAYOUT = Layout(
    name="qwen_vl",
    family="qwen_vl",
    model_types=("qwen",),
    config_type=QwenVLConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
