"""LLaVA and LLaVA-1.5 (Liu et al. 2023, "Visual Instruction Tuning"; 2024, "Improved Baselines with Visual
Instruction Tuning").

The patches of CLIP's last-but-one layer, class token dropped, go through one affine map (LLaVA, 2023 §4.1) or a
two-layer MLP (LLaVA-1.5, 2024 §3.3) into the language model's input, where they take the picture's place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from chiasm.connectors.linear import LinearConnectorConfig
from chiasm.connectors.mlp import MLPConnectorConfig
from chiasm.core.registry import Family, register
from chiasm.fusion.splice import SplicedLM
from chiasm.language.decoder import DecoderConfig
from chiasm.models.assembly import Parts, clip_tower, llama, picture_processor
from chiasm.processing.miniature import CHATML_TEMPLATE, tiny_tokenizer
from chiasm.processing.processor import Processor
from chiasm.vision.patches import PatchSelection
from chiasm.vision.vit import ViT, ViTConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LlavaConfig:
    """A LLaVA.

    Attributes:
        vision: CLIP's tower.
        connector: linear (LLaVA) or two layers (LLaVA-1.5).
        language: the language model.
        image_token_id: id of a picture slot.
        selection: which patches are read.
    """

    vision: ViTConfig
    connector: LinearConnectorConfig | MLPConnectorConfig
    language: DecoderConfig
    image_token_id: int
    selection: PatchSelection = PatchSelection()

    def build(self) -> Llava:
        """A model with random weights."""
        return Llava(self)


class Llava(SplicedLM):
    """vision → connector → language."""

    vision: ViT

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__(config.vision.build(), config.connector.build(), config.language.build())
        self.config = config

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(crops, 3, h, w) → (crops, P, D) patches of one layer."""
        return self.config.selection.read(self.vision, pixels)


def _vicuna(size: str, vocab: int, context: int) -> DecoderConfig:
    width, layers, heads, mlp = {"7b": (4096, 32, 32, 11008), "13b": (5120, 40, 40, 13824)}[size]
    return llama(vocab, width, layers, heads, heads, mlp, context=context)


def _llava(size: str) -> LlavaConfig:
    vision, language = clip_tower(224), _vicuna(size, 32003, 2048)
    connector = LinearConnectorConfig(input_dim=vision.hidden_dim, output_dim=language.hidden_dim)
    return LlavaConfig(vision=vision, connector=connector, language=language, image_token_id=32000)


def _llava_1_5(size: str) -> LlavaConfig:
    vision, language = clip_tower(336), _vicuna(size, 32064, 4096)
    connector = MLPConnectorConfig(input_dim=vision.hidden_dim, output_dim=language.hidden_dim)
    return LlavaConfig(vision=vision, connector=connector, language=language, image_token_id=32000)


PRESETS = {
    "llava_7b": _llava("7b"),
    "llava_13b": _llava("13b"),
    "llava_1_5_7b": _llava_1_5("7b"),
    "llava_1_5_13b": _llava_1_5("13b"),
}


def processor(config: LlavaConfig, parts: Parts) -> Processor:
    """One crop a picture: centre crop, or padded to a square, as the folder's settings say."""
    pictures = picture_processor(
        parts,
        "LlavaImageProcessor",
        config.vision.image_size,
        patch=config.vision.patch_size,
        extra=config.selection.extra(config.vision),
    )
    return parts.conversational(pictures, config.image_token_id, config.language.context_length)


def tiny() -> tuple[LlavaConfig, Processor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("chatml")
    vision = clip_tower(32, patch=8, width=32, layers=3, heads=2)
    language = llama(len(tokenizer), 48, 2, 4, 2, 96, context=2048)
    config = LlavaConfig(
        vision=vision,
        connector=MLPConnectorConfig(input_dim=32, output_dim=48),
        language=language,
        image_token_id=tokenizer.token_to_id("<image>") or 0,
    )
    return config, processor(config, Parts(tokenizer, template=CHATML_TEMPLATE))


FAMILY: Family = register(
    Family(
        name="llava",
        summary="CLIP patches through a linear or MLP connector into a LLaMA-family language model",
        paper="Liu et al. 2023, Visual Instruction Tuning; 2024, Improved Baselines with Visual Instruction Tuning",
        capabilities=("generate", "score"),
        config_type=LlavaConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
