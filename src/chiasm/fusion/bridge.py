"""A frozen tower, any connector, any language model: the splice with nothing of a family's own.

The wiring of BLIP-2's second stage, MiniGPT-4, Frozen, Qwen-VL and others: they differ in the parts alone. A family's
configuration is a `Bridge`; whether its language model is a decoder or an encoder–decoder decides the module.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch

from chiasm.connectors.choice import Connector, visual_tokens
from chiasm.fusion.seq2seq import SplicedSeq2Seq
from chiasm.fusion.splice import SplicedLM
from chiasm.language.decoder import DecoderConfig
from chiasm.language.encoder_decoder import EncoderDecoderConfig
from chiasm.vision.cells import CellTower, CellTowerConfig
from chiasm.vision.efficientnet import EfficientNet, EfficientNetConfig
from chiasm.vision.patches import FinalStates, PatchSelection, PyramidCells
from chiasm.vision.vit import ViT, ViTConfig


class Bridge(Protocol):
    """What a configuration of this wiring has; every field is read-only."""

    @property
    def vision(self) -> ViTConfig | EfficientNetConfig | CellTowerConfig:
        """The tower."""

    @property
    def connector(self) -> Connector:
        """From its features to the language model's input."""

    @property
    def language(self) -> DecoderConfig | EncoderDecoderConfig:
        """What reads and writes."""

    @property
    def reading(self) -> FinalStates | PatchSelection | PyramidCells:
        """Which of the tower's states are features."""


def crop_tokens(config: Bridge) -> int:
    """Visual tokens of one crop."""
    return visual_tokens(config.connector, config.reading.count(config.vision))


class BridgedLM(SplicedLM):
    """vision → connector → a decoder."""

    vision: ViT | EfficientNet | CellTower
    plain_reading: ClassVar[bool] = True  # `visual_features` is what `reading` says, for the store of features

    def __init__(self, config: Bridge) -> None:
        assert isinstance(config.language, DecoderConfig)
        super().__init__(config.vision.build(), config.connector.build(), config.language.build())
        self.config = config

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(crops, 3, h, w) → (crops, P, D) features, before the connector."""
        return self.config.reading.read(self.vision, pixels)


class BridgedSeq2Seq(SplicedSeq2Seq):
    """vision → connector → an encoder–decoder."""

    vision: ViT | EfficientNet | CellTower
    plain_reading: ClassVar[bool] = True  # `visual_features` is what `reading` says, for the store of features

    def __init__(self, config: Bridge) -> None:
        assert isinstance(config.language, EncoderDecoderConfig)
        super().__init__(config.vision.build(), config.connector.build(), config.language.build())
        self.config = config

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(crops, 3, h, w) → (crops, P, D) features, before the connector."""
        return self.config.reading.read(self.vision, pixels)


def build_bridge(config: Bridge) -> BridgedLM | BridgedSeq2Seq:
    """The module that fits the language model."""
    return BridgedSeq2Seq(config) if isinstance(config.language, EncoderDecoderConfig) else BridgedLM(config)
