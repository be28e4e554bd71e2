"""Published language models by their numbers: what families' presets are put together from."""

from __future__ import annotations

from typing import Any

from chiasm.language.decoder import DecoderConfig
from chiasm.language.encoder_decoder import EncoderDecoderConfig
from chiasm.nn.additive_positions import LearnedPositionsConfig
from chiasm.nn.position_bias import AlibiConfig
from chiasm.nn.positions import RotaryConfig

_PLAIN: dict[str, Any] = {"rotary": None, "rms_norm": False, "gated": False}
_BIASED: dict[str, Any] = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}


def opt(
    vocab: int, width: int, layers: int, heads: int, *, mlp: int | None = None, context: int = 2048
) -> DecoderConfig:
    """OPT (Zhang et al. 2022)."""
    return DecoderConfig(
        vocab_size=vocab,
        hidden_dim=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        mlp_dim=mlp or 4 * width,
        context_length=context,
        norm_eps=1e-5,
        positions=LearnedPositionsConfig(offset=2),
        tie_embeddings=True,
        act="relu",
        **_PLAIN,
        **_BIASED,
    )


def gpt2(
    vocab: int, width: int, layers: int, heads: int, *, mlp: int | None = None, context: int = 1024
) -> DecoderConfig:
    """GPT-2 (Radford et al. 2019)."""
    return DecoderConfig(
        vocab_size=vocab,
        hidden_dim=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        mlp_dim=mlp or 4 * width,
        context_length=context,
        norm_eps=1e-5,
        positions=LearnedPositionsConfig(),
        tie_embeddings=True,
        act="gelu_new",
        **_PLAIN,
        **_BIASED,
    )


def mpt(vocab: int, width: int, layers: int, heads: int, *, context: int = 2048) -> DecoderConfig:
    """MPT (MosaicML 2023)."""
    return DecoderConfig(
        vocab_size=vocab,
        hidden_dim=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        mlp_dim=4 * width,
        context_length=context,
        norm_eps=1e-5,
        positions=AlibiConfig(),
        tie_embeddings=True,
        norm_bias=False,
        act="gelu",
        **_PLAIN,
    )


def magneto(
    vocab: int, width: int, layers: int, heads: int, *, mlp: int, context: int, **positions: Any
) -> DecoderConfig:
    """Magneto (Wang et al. 2022), as in Kosmos."""
    return DecoderConfig(
        vocab_size=vocab,
        hidden_dim=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        mlp_dim=mlp,
        context_length=context,
        norm_eps=1e-5,
        inner_norms=True,
        tie_embeddings=True,
        act="gelu",
        embed_scale=width**0.5,
        **{**_PLAIN, **positions},
        **_BIASED,
    )


def chinchilla(vocab: int, width: int, layers: int, heads: int, *, context: int = 2048) -> DecoderConfig:
    """Chinchilla (Hoffmann et al. 2022, table A9; RMSNorm as in Gopher), with rotary positions."""
    return DecoderConfig(
        vocab_size=vocab,
        hidden_dim=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=128,
        mlp_dim=4 * width,
        context_length=context,
        norm_eps=1e-6,
        rotary=RotaryConfig(),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        gated=False,
        tie_embeddings=True,
        act="gelu",
    )


def palm(vocab: int, width: int, layers: int, heads: int, *, head_dim: int = 256, context: int = 2048) -> DecoderConfig:
    """PaLM (Chowdhery et al. 2022, §2 and table 1): the MLP is 4·D wide, and gated."""
    return DecoderConfig(
        vocab_size=vocab,
        hidden_dim=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=1,
        head_dim=head_dim,
        mlp_dim=4 * width,
        context_length=context,
        norm_eps=1e-6,
        rotary=RotaryConfig(),
        rms_norm=False,
        norm_bias=False,
        parallel=True,
        tie_embeddings=True,
        act="silu",
    )


def flan_t5(size: str) -> EncoderDecoderConfig:
    """Flan-T5 (Chung et al. 2022), by size: ``small``, ``base``, ``large``, ``xl`` or ``xxl``."""
    width, mlp, layers, heads = {
        "small": (512, 1024, 8, 6),
        "base": (768, 2048, 12, 12),
        "large": (1024, 2816, 24, 16),
        "xl": (2048, 5120, 24, 32),
        "xxl": (4096, 10240, 24, 64),
    }[size]
    return EncoderDecoderConfig(
        vocab_size=32128,
        hidden_dim=width,
        num_heads=heads,
        head_dim=64,
        mlp_dim=mlp,
        num_layers=layers,
        num_decoder_layers=layers,
    )
