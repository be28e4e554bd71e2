"""A miniature of any configuration: the same wiring and options, few and narrow layers.

What fits the processor stays: picture and patch size, vocabulary, context, class token, which layer is read.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from chiasm.connectors.cross_attention_resampler import GridResamplerConfig, LatentAttentionConfig
from chiasm.connectors.glu_adapter import GLUAdapterConfig
from chiasm.connectors.mean_query_pool import MeanQueryPoolConfig
from chiasm.connectors.qformer import QFormerConfig
from chiasm.connectors.resampler import ResamplerConfig
from chiasm.fusion.gated_cross_attention import GatesConfig
from chiasm.fusion.routed_weights import PartialLoraDecoderConfig
from chiasm.language.decoder import DecoderConfig
from chiasm.language.encoder_decoder import EncoderDecoderConfig
from chiasm.language.mixture import MixtureDecoderConfig
from chiasm.language.querying import QueryDecoderConfig
from chiasm.language.text import TextEncoderConfig
from chiasm.nn.mla import LatentShape
from chiasm.nn.positions import MultimodalRotaryConfig
from chiasm.vision.native import NativeViTConfig
from chiasm.vision.nfnet import NFNetConfig
from chiasm.vision.resnet import ModifiedResNetConfig
from chiasm.vision.vit import ViTConfig

JOINT = 16  # embedding width of a miniature dual encoder


def shrink(config: Any) -> Any:
    """A family's configuration → its miniature; connectors and joint widths follow from the small towers."""
    # blocks enough for the earliest layer that is read
    deepest = max(3, -min(getattr(config, "layers", ()), default=0) + 1)
    small = replace(
        config,
        **{
            f.name: _part(getattr(config, f.name), deepest)
            for f in fields(config)
            if is_dataclass(getattr(config, f.name))
        },
    )
    if hasattr(small, "embed_dim"):
        joint = small.vision.hidden_dim if config.embed_dim == getattr(config.vision, "hidden_dim", 0) else JOINT
        small = replace(small, embed_dim=joint)
        if isinstance(small.vision, ModifiedResNetConfig):
            small = replace(small, vision=replace(small.vision, output_dim=joint))
    if isinstance(getattr(small, "language", None), QueryDecoderConfig):
        language = replace(small.language, context_dim=small.vision.hidden_dim, num_queries=4)
        small = replace(small, language=language)
    if hasattr(small, "connector"):
        small = replace(small, connector=_connector(config, small))
    return small


def _connector(config: Any, small: Any) -> Any:
    """Widths follow from the towers; a connector that joins patches or layers stays as many times as wide."""
    times = max(1, config.connector.input_dim // _width(config.vision))
    widths: dict[str, Any] = {"input_dim": _width(small.vision) * times}
    if config.connector.output_dim is not None:
        widths["output_dim"] = small.language.hidden_dim
    if isinstance(small.connector, MeanQueryPoolConfig):
        widths |= {"pooled_dim": small.vision.hidden_dim, "num_heads": 2, "hidden_dim": small.language.mlp_dim}
    if isinstance(small.connector, GLUAdapterConfig):
        widths["hidden_dim"] = small.language.mlp_dim
    return replace(small.connector, **widths)


def _width(vision: Any) -> int:
    """Width of a tower's features."""
    return vision.width if isinstance(vision, NFNetConfig) else vision.hidden_dim


# What bridged families stand together of, besides towers: numbers of a miniature; ends follow from the towers.
_BRIDGES: dict[type, dict[str, Any]] = {
    QFormerConfig: {"num_queries": 4, "hidden_dim": 24, "num_layers": 2, "num_heads": 2, "mlp_dim": 48},
    ResamplerConfig: {"num_latents": 4, "num_layers": 2, "num_heads": 2, "head_dim": 8, "mlp_dim": 128},
    GridResamplerConfig: {"grid": 2, "num_heads": 4},
    LatentAttentionConfig: {"num_latents": 4, "num_heads": 4},
    GatesConfig: {"every": 1, "first": 0, "num_heads": 4, "head_dim": 12, "mlp_dim": 96},
    NFNetConfig: {"depths": (1, 1, 1, 1), "channels": (16, 16, 32, 32), "stem_dim": 8},
    EncoderDecoderConfig: {
        "hidden_dim": 48, "num_heads": 4, "head_dim": 12, "mlp_dim": 96, "num_layers": 2, "num_decoder_layers": 2,
    },
}  # fmt: skip


def _part(part: Any, deepest: int = 3) -> Any:
    if type(part) in _BRIDGES:
        return replace(part, **_BRIDGES[type(part)])
    if isinstance(part, ViTConfig):
        return replace(part, hidden_dim=32, num_layers=min(part.num_layers, deepest), num_heads=2, mlp_dim=64)
    if isinstance(part, NativeViTConfig):
        window = None if part.window is None else replace(part.window, full_layers=(1,))
        return replace(part, hidden_dim=32, num_layers=3, num_heads=2, mlp_dim=64, window=window)
    if isinstance(part, ModifiedResNetConfig):
        return replace(part, layers=(1, 1, 1, 1), width=16, num_heads=4)
    if isinstance(part, TextEncoderConfig):
        return replace(part, hidden_dim=32, num_layers=2, num_heads=2, mlp_dim=64)
    if isinstance(part, DecoderConfig):
        kv = 4 if part.num_kv_heads == part.num_heads else 2
        scale = 48**0.5 if part.embed_scale == part.hidden_dim**0.5 else part.embed_scale
        part = replace(part, hidden_dim=48, num_layers=2, num_heads=4, num_kv_heads=kv, head_dim=None, mlp_dim=96)
        part = replace(part, embed_scale=scale)
        return _decoder(part)
    return part


def _decoder(part: DecoderConfig) -> DecoderConfig:
    """What hangs on the widths: sections of rotary positions, experts, latents, ranks."""
    if isinstance(part.rotary, MultimodalRotaryConfig):
        part = replace(part, rotary=replace(part.rotary, sections=(2, 2, 2)))
    if isinstance(part, PartialLoraDecoderConfig):
        part = replace(part, rank=4)
    if isinstance(part, MixtureDecoderConfig):
        experts: dict[str, Any] = {
            "num_experts": 8,
            "top_k": 3,
            "expert_dim": 16,
            "shared_dim": 32 if part.shared_dim else 0,
        }
        part = replace(part, **experts, num_layers=3 if part.dense_layers else 2, mlp_dim=16 * 6)
        if part.latent is None:
            return replace(part, mlp_dim=16)  # a mixture in every layer: its width is the experts'
        small = LatentShape(latent_dim=24, query_latent_dim=None, nope_dim=8, rope_dim=4, value_dim=12)
        return replace(part, latent=small)
    return part
