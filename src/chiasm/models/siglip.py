"""SigLIP (Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training").

A ViT without class token, pooled by a learned probe; a bidirectional text tower read at its last, padded position;
similarity t·x·y + b, whose sigmoid is the probability that picture and text belong together (alg. 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from chiasm.core.registry import Family, register
from chiasm.fusion.dual import DualEncoder
from chiasm.language.text import LastTokenPool, TextEncoderConfig
from chiasm.models.assembly import Parts, picture_processor, vit
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import DualProcessor
from chiasm.vision.vit import ViTConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SiglipConfig:
    """A SigLIP; the joint space is the text projection's output, of the vision tower's own width.

    Attributes:
        vision, language: the towers.
        embed_dim: E, equal to the vision tower's width.
        init_scale, init_bias: logarithm of the first scale, first bias.
    """

    vision: ViTConfig
    language: TextEncoderConfig
    embed_dim: int
    init_scale: float = math.log(10)
    init_bias: float = -10.0

    def build(self) -> DualEncoder:
        """A model with random weights."""
        return DualEncoder(
            self.vision.build(),
            self.language.build(),
            nn.Identity(),
            nn.Linear(self.language.hidden_dim, self.embed_dim),
            init_scale=self.init_scale,
            init_bias=self.init_bias,
        )


def siglip_config(
    image: int, patch: int, width: int, layers: int, heads: int, mlp: int, vocab: int = 32000, context: int = 64
) -> SiglipConfig:
    """A SigLIP by its numbers: pixels, pixels, width, layers, heads and MLP width of both towers, pieces, tokens."""
    act, eps = "gelu_pytorch_tanh", 1e-6
    vision = vit(image, patch, width, layers, heads, mlp, act=act, norm_eps=eps, class_token=False, attention_pool=True)
    language = TextEncoderConfig(
        vocab_size=vocab,
        context_length=context,
        hidden_dim=width,
        num_layers=layers,
        num_heads=heads,
        mlp_dim=mlp,
        act=act,
        norm_eps=eps,
        pool=LastTokenPool(),
    )
    return SiglipConfig(vision=vision, language=language, embed_dim=width)


PRESETS = {
    **{f"siglip_b_16_{image}": siglip_config(image, 16, 768, 12, 12, 3072) for image in (224, 256, 384, 512)},
    **{f"siglip_l_16_{image}": siglip_config(image, 16, 1024, 24, 16, 4096) for image in (256, 384)},
    "siglip_so400m_14_224": siglip_config(224, 14, 1152, 27, 16, 4304, context=16),
    "siglip_so400m_14_384": siglip_config(384, 14, 1152, 27, 16, 4304),
}


def processor(config: SiglipConfig, parts: Parts) -> DualProcessor:
    """Stretch to the exact size; text padded to the full context, and read with its padding, as trained."""
    pictures = picture_processor(parts, "SiglipImageProcessor", config.vision.image_size)
    return DualProcessor(parts.tokenizer, pictures, config.language.context_length, pad_to_context=True)


def tiny() -> tuple[SiglipConfig, DualProcessor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("siglip")
    config = siglip_config(32, 8, 32, 2, 2, 64, vocab=len(tokenizer), context=16)
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="siglip",
        summary="dual encoder trained by a sigmoid on every pair",
        paper="Zhai et al. 2023, Sigmoid Loss for Language Image Pre-Training",
        capabilities=("embed", "classify"),
        config_type=SiglipConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
