"""A miniature of any configuration: the same wiring and options, few and narrow layers.

What fits the processor stays: picture and patch size, vocabulary, context, class token, which layer is read.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from chiasm.language.decoder import DecoderConfig
from chiasm.language.text import TextEncoderConfig
from chiasm.vision.resnet import ModifiedResNetConfig
from chiasm.vision.vit import ViTConfig

JOINT = 16  # embedding width of a miniature dual encoder


def shrink(config: Any) -> Any:
    """A family's configuration → its miniature; connectors and joint widths follow from the small towers."""
    small = replace(
        config,
        **{f.name: _part(getattr(config, f.name)) for f in fields(config) if is_dataclass(getattr(config, f.name))},
    )
    if hasattr(small, "embed_dim"):
        joint = small.vision.hidden_dim if config.embed_dim == getattr(config.vision, "hidden_dim", 0) else JOINT
        small = replace(small, embed_dim=joint)
        if isinstance(small.vision, ModifiedResNetConfig):
            small = replace(small, vision=replace(small.vision, output_dim=joint))
    if hasattr(small, "connector"):
        widths = {"input_dim": small.vision.hidden_dim, "output_dim": small.language.hidden_dim}
        small = replace(small, connector=replace(small.connector, **widths))
    return small


def _part(part: Any) -> Any:
    if isinstance(part, ViTConfig):
        return replace(part, hidden_dim=32, num_layers=3, num_heads=2, mlp_dim=64)
    if isinstance(part, ModifiedResNetConfig):
        return replace(part, layers=(1, 1, 1, 1), width=16, num_heads=4)
    if isinstance(part, TextEncoderConfig):
        return replace(part, hidden_dim=32, num_layers=2, num_heads=2, mlp_dim=64)
    if isinstance(part, DecoderConfig):
        kv = 4 if part.num_kv_heads == part.num_heads else 2
        return replace(part, hidden_dim=48, num_layers=2, num_heads=4, num_kv_heads=kv, head_dim=None, mlp_dim=96)
    return part
