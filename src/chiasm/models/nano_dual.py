"""Nano-dual: EfficientNet-Lites and a MiniLM sentence encoder, all frozen, and two small trained heads between them.

No paper of its own: the dual encoder (Radford et al. 2021, fig. 3) on classifiers and a sentence encoder that never saw
each other. Pictures: the towers' features at several depths, side by side, and the mean of their class scores →
`ConceptHead`. Texts: mean over tokens → `ResidualHead`. Cosine similarity at a learned temperature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.connectors.concept_head import ConceptHead, ConceptHeadConfig
from chiasm.connectors.residual import ResidualHeadConfig
from chiasm.core.registry import Family, register
from chiasm.fusion.dual import DualEncoder
from chiasm.language.bert import BertConfig
from chiasm.models.assembly import Parts, lite_pictures
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import DualProcessor
from chiasm.vision.efficientnet import EFFICIENTNET_LITE, EfficientNet, EfficientNetConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class NanoDualConfig:
    """A nano-dual.

    Attributes:
        vision: the picture towers, classifiers of the same classes; the first sets the pictures' size.
        language: the sentence encoder; its width is the joint dimension E.
        hidden_dim, text_hidden_dim: of the two heads.
        init_scale: logarithm of the similarity's first scale.
    """

    vision: tuple[EfficientNetConfig, ...]
    language: BertConfig
    hidden_dim: int
    text_hidden_dim: int
    init_scale: float = math.log(20.0)

    @property
    def unread(self) -> tuple[str, ...]:
        """Parameters that checkpoints of the towers carry and this family never reads."""
        return ("language.pooler.",)

    @property
    def vision_head(self) -> ConceptHeadConfig:
        """The head on the picture towers: its outer shapes follow from them."""
        return ConceptHeadConfig(
            input_dim=sum(tower.descriptor_dim for tower in self.vision),
            num_concepts=self.vision[0].num_classes,
            hidden_dim=self.hidden_dim,
            output_dim=self.language.hidden_dim,
        )

    @property
    def text_head(self) -> ResidualHeadConfig:
        """The head on the sentence encoder."""
        return ResidualHeadConfig(input_dim=self.language.hidden_dim, hidden_dim=self.text_hidden_dim)

    def build(self) -> NanoDual:
        """A model with random weights."""
        return NanoDual(self)


class NanoDual(DualEncoder):
    """A dual encoder whose picture head sees the towers' class scores beside their features."""

    vision: nn.ModuleList
    vision_proj: ConceptHead

    def __init__(self, config: NanoDualConfig) -> None:
        towers = nn.ModuleList(tower.build() for tower in config.vision)
        heads = config.vision_head.build(), config.text_head.build()
        super().__init__(towers, config.language.build(), *heads, init_scale=config.init_scale)
        self.config = config

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) pixels → (I, F) descriptors; each tower sees them at the size it was trained at."""
        return torch.cat([tower.descriptor(self.sized(pixels, tower)) for tower in self.towers], 1)

    def embed_features(self, features: torch.Tensor) -> torch.Tensor:
        """(I, F) descriptors of all towers, side by side → (I, E), L2-normalised."""
        parts = features.split([tower.config.descriptor_dim for tower in self.towers], 1)
        scores = [t.logits(part[:, : t.config.hidden_dim]) for t, part in zip(self.towers, parts, strict=True)]
        return F.normalize(self.vision_proj(features, torch.stack(scores).mean(0)), dim=-1)

    @property
    def towers(self) -> list[EfficientNet]:
        """The picture towers."""
        return [cast(EfficientNet, tower) for tower in self.vision]

    @staticmethod
    def sized(pixels: torch.Tensor, tower: EfficientNet) -> torch.Tensor:
        """Pixels at the size that a tower was trained at."""
        size = tower.config.image_size
        if pixels.shape[-1] == size:
            return pixels
        resized = F.interpolate(pixels.float(), (size, size), mode="bicubic", antialias=True)
        return resized.to(pixels.dtype)  # half precision has no such kernel on a processor


def processor(config: NanoDualConfig, parts: Parts) -> DualProcessor:
    """The whole picture on a white square of the tower's size, levels as EfficientNet-Lite's weights want them."""
    pictures = lite_pictures(config.vision[0].image_size)
    return DualProcessor(parts.tokenizer, pictures, config.language.context_length)


MINILM = BertConfig(
    vocab_size=30522, context_length=512, hidden_dim=384, num_layers=6, num_heads=12, mlp_dim=1536, pooler=True
)
PRESETS = {
    "nano_dual": NanoDualConfig(
        vision=(EFFICIENTNET_LITE["efficientnet_lite2"], EFFICIENTNET_LITE["efficientnet_lite0"]),
        language=MINILM,
        hidden_dim=896,
        text_hidden_dim=512,
    ),
}


def tiny() -> tuple[NanoDualConfig, DualProcessor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("bert")
    small = EfficientNetConfig(image_size=64, width=0.25, depth=0.25, hidden_dim=32, num_classes=10)
    config = NanoDualConfig(
        vision=(small, replace(small, image_size=32)),
        language=BertConfig(
            vocab_size=len(tokenizer), context_length=64, hidden_dim=16, num_layers=2, num_heads=2, mlp_dim=32
        ),
        hidden_dim=24,
        text_hidden_dim=8,
    )
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="nano_dual",
        summary="EfficientNet-Lites and MiniLM, frozen, joined by two small heads; the bundled model's family",
        paper="none; CLIP's dual encoder (Radford et al. 2021) with ConSE (Norouzi et al. 2014) on EfficientNet-Lite",
        capabilities=("embed", "classify"),
        config_type=NanoDualConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
