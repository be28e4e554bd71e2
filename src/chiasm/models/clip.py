"""CLIP (Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision").

A ViT or a modified ResNet, a causal text transformer read at its end-of-text token, two bias-free projections and
cosine similarity at a learned temperature (§2.3, fig. 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from chiasm.core.registry import Family, register
from chiasm.fusion.dual import DualEncoder
from chiasm.language.text import EndOfTextPool, TextEncoderConfig
from chiasm.models.assembly import Parts, clip_tower, picture_processor
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import DualProcessor
from chiasm.vision.resnet import ModifiedResNetConfig
from chiasm.vision.vit import ViTConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipConfig:
    """A CLIP.

    Attributes:
        vision: a ViT (projected to the joint space) or a ResNet (which ends there by itself).
        language: the text tower.
        embed_dim: E.
        init_scale: logarithm of the similarity's first scale.
    """

    vision: ViTConfig | ModifiedResNetConfig
    language: TextEncoderConfig
    embed_dim: int
    init_scale: float = math.log(1 / 0.07)

    def build(self) -> DualEncoder:
        """A model with random weights."""
        pooled = isinstance(self.vision, ModifiedResNetConfig)
        return DualEncoder(
            self.vision.build(),
            self.language.build(),
            nn.Identity() if pooled else nn.Linear(self.vision.output_dim, self.embed_dim, bias=False),
            nn.Linear(self.language.hidden_dim, self.embed_dim, bias=False),
            init_scale=self.init_scale,
        )


def text(
    width: int, layers: int = 12, vocab: int = 49408, context: int = 77, heads: int | None = None
) -> TextEncoderConfig:
    """CLIP's text tower."""
    return TextEncoderConfig(
        vocab_size=vocab,
        context_length=context,
        hidden_dim=width,
        num_layers=layers,
        num_heads=heads or width // 64,
        mlp_dim=4 * width,
        act="quick_gelu",
        norm_eps=1e-5,
        pool=EndOfTextPool(token_id=None),
    )


def _vit_clip(image: int, patch: int, width: int, layers: int, joint: int) -> ClipConfig:
    return ClipConfig(
        vision=clip_tower(image, patch, width, layers, width // 64), language=text(joint), embed_dim=joint
    )


def _resnet_clip(image: int, layers: tuple[int, int, int, int], width: int, joint: int, text_width: int) -> ClipConfig:
    vision = ModifiedResNetConfig(image_size=image, layers=layers, width=width, num_heads=width // 2, output_dim=joint)
    return ClipConfig(vision=vision, language=text(text_width), embed_dim=joint)


PRESETS = {
    "clip_vit_b_32": _vit_clip(224, 32, 768, 12, 512),
    "clip_vit_b_16": _vit_clip(224, 16, 768, 12, 512),
    "clip_vit_l_14": _vit_clip(224, 14, 1024, 24, 768),
    "clip_vit_l_14_336": _vit_clip(336, 14, 1024, 24, 768),
    "clip_rn50": _resnet_clip(224, (3, 4, 6, 3), 64, 1024, 512),
    "clip_rn101": _resnet_clip(224, (3, 4, 23, 3), 64, 512, 512),
    "clip_rn50x4": _resnet_clip(288, (4, 6, 10, 6), 80, 640, 640),
    "clip_rn50x16": _resnet_clip(384, (6, 8, 18, 8), 96, 768, 768),
    "clip_rn50x64": _resnet_clip(448, (3, 15, 36, 10), 128, 1024, 1024),
}


def processor(config: ClipConfig, parts: Parts) -> DualProcessor:
    """Resize the short side, crop the centre; text padded to the longest of a batch (causal: padding is unseen)."""
    return DualProcessor(
        parts.tokenizer,
        picture_processor(parts, "CLIPImageProcessor", config.vision.image_size),
        config.language.context_length,
    )


def tiny() -> tuple[ClipConfig, DualProcessor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("clip")
    language = text(32, layers=2, vocab=len(tokenizer), heads=2)
    config = ClipConfig(vision=clip_tower(32, 8, 32, 2, 2, 64), language=language, embed_dim=16)
    return config, processor(config, Parts(tokenizer))


def tiny_resnet() -> ClipConfig:
    """A miniature of the ResNet variant."""
    vision = ModifiedResNetConfig(image_size=64, layers=(1, 2, 1, 1), width=16, num_heads=4, output_dim=16)
    return ClipConfig(
        vision=vision, language=text(32, layers=2, vocab=len(tiny_tokenizer("clip")), heads=2), embed_dim=16
    )


FAMILY: Family = register(
    Family(
        name="clip",
        summary="dual encoder trained by softmax contrast; ViT and ResNet towers",
        paper="Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision",
        capabilities=("embed", "classify"),
        config_type=ClipConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
