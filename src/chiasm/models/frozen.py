"""Frozen (Tsimpoukelli et al. 2021, "Multimodal Few-Shot Learning with Frozen Language Models").

NF-ResNet-50, trained from scratch, its mean feature mapped to two tokens of a frozen language model's input (§3.1). The
gradient passes through the language model; only the tower and the map learn.

Departure: the language model's relative positions (7B, 32 layers) are rotary here; there are no published weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from chiasm.connectors.choice import Connector, visual_tokens
from chiasm.connectors.prefix import PrefixConfig
from chiasm.core.registry import Family, register
from chiasm.fusion.splice import SplicedLM
from chiasm.language.decoder import DecoderConfig
from chiasm.models.assembly import Parts, picture_processor
from chiasm.models.languages import chinchilla
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import Processor
from chiasm.processing.resampled import ResampledPictures
from chiasm.vision.nfnet import NFNet, NFNetConfig, nf_resnet50

TRAINED = ("vision.", "connector.")


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenConfig:
    """A Frozen.

    Attributes:
        vision: the tower.
        connector: the prefix; any other connector fits as well.
        language: the frozen language model.
        image_token_id: id of a picture slot.
    """

    vision: NFNetConfig
    connector: Connector
    language: DecoderConfig
    image_token_id: int

    def build(self) -> Frozen:
        """A model with random weights."""
        return Frozen(self)


class Frozen(SplicedLM):
    """vision → prefix → language."""

    vision: NFNet

    def __init__(self, config: FrozenConfig) -> None:
        super().__init__(config.vision.build(), config.connector.build(), config.language.build())
        self.config = config

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(crops, 3, h, w) → (crops, P, D), the grid in raster order."""
        return self.vision.features(pixels).flatten(2).transpose(1, 2)


def _frozen() -> FrozenConfig:
    vision, language = nf_resnet50(224), chinchilla(32001, 4096, 32, 32)
    connector = PrefixConfig(input_dim=vision.width, output_dim=language.hidden_dim)
    return FrozenConfig(vision=vision, connector=connector, language=language, image_token_id=32000)


PRESETS = {"frozen_7b": _frozen()}


def processor(config: FrozenConfig, parts: Parts) -> Processor:
    """Centre crop; two tokens a picture."""
    pictures = picture_processor(parts, "CLIPImageProcessor", config.vision.image_size)
    return Processor(
        parts.tokenizer,
        ResampledPictures.of(pictures, visual_tokens(config.connector, config.vision.grid**2)),
        template=parts.template,
        image_token=parts.tokenizer.id_to_token(config.image_token_id),
        max_length=config.language.context_length,
        settings=parts.settings,
    )


def tiny() -> tuple[FrozenConfig, Processor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("opt")
    vision = NFNetConfig(
        image_size=64, depths=(1, 1, 1, 1), channels=(16, 16, 32, 32), stem_dim=8, deep_stem=False, bottleneck=0.25
    )
    language = chinchilla(len(tokenizer), 48, 2, 4, context=512)
    config = FrozenConfig(
        vision=vision,
        connector=PrefixConfig(input_dim=32, output_dim=48),
        language=language,
        image_token_id=tokenizer.token_to_id("<image>") or 0,
    )
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="frozen",
        summary="A trained tower whose pooled picture is two tokens of a frozen language model's prompt",
        paper="Tsimpoukelli et al. 2021, Multimodal Few-Shot Learning with Frozen Language Models",
        capabilities=("generate", "score"),
        config_type=FrozenConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
