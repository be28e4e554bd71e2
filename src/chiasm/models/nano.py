"""Nano: EfficientNet-Lite, a soft-word connector and SmolLM2-135M, small enough to be trained on a laptop.

No paper of its own: LLaVA's fusion (Liu et al. 2023, §4.1) with a convolutional tower (Tan & Le 2019) whose
two coarsest scales meet cell by cell (a 2×2 block of the fine map, one position of the coarse one), and a
connector that says what it found in mixtures of the language model's own embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from chiasm.connectors.soft_words import SoftWordConnector, SoftWordsConfig
from chiasm.core.plan import ImagePlan
from chiasm.core.registry import Family, register
from chiasm.fusion.splice import SplicedLM
from chiasm.language.decoder import Decoder, DecoderConfig
from chiasm.models.assembly import Parts, llama
from chiasm.processing.image_processor import ImageProcessor
from chiasm.processing.miniature import CHATML_TEMPLATE, tiny_tokenizer
from chiasm.processing.processor import Processor
from chiasm.processing.tilers import Stretch
from chiasm.vision.efficientnet import CELL, EFFICIENTNET_LITE, EfficientNet, EfficientNetConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class NanoConfig:
    """A nano.

    Attributes:
        vision: the tower; its `image_size` is a multiple of 32.
        connector: its `input_dim` and `num_positions` follow from the tower.
        language: the language model.
        image_token_id: id of a picture slot.
    """

    vision: EfficientNetConfig
    connector: SoftWordsConfig
    language: DecoderConfig
    image_token_id: int

    @property
    def unread(self) -> tuple[str, ...]:
        """Parameters that no forward pass reads: the tower's classifier, and what only alignment learns from."""
        return ("vision.head.", "vision.classifier.", "connector.log_sharpness")

    def build(self) -> Nano:
        """A model with random weights."""
        return Nano(self)


class Nano(SplicedLM):
    """vision → connector → language."""

    vision: EfficientNet
    connector: SoftWordConnector
    language: Decoder

    def __init__(self, config: NanoConfig) -> None:
        super().__init__(config.vision.build(), config.connector.build(), config.language.build())
        self.config = config

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(crops, 3, h, w) → (crops, P, D) features of every 32×32 pixel cell, in reading order."""
        return self.vision.cells(pixels)

    def connect(self, features: torch.Tensor, plans: list[ImagePlan] | tuple[ImagePlan, ...]) -> list[torch.Tensor]:
        """(crops, P, D) features, one crop a picture → one (N, D) tensor a picture, N as its plan has it."""
        counts = [plan.num_tokens // sum(self.config.connector.tokens) for plan in plans]
        said = {count: self.connector(features, count) for count in set(counts)}  # usually one
        return [said[count][row] for row, count in enumerate(counts)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrases(Stretch):
    """Stretched to the tower's square and spoken of in some phrases; a budget of tokens is one of phrases.

    Attributes:
        each: visual tokens of a phrase.
    """

    each: int

    @property
    def fewest_tokens(self) -> int:
        """One phrase."""
        return self.each

    def within(self, tokens: int) -> Phrases:
        """At most so many tokens; see `budget.within`."""
        beyond = self.plan(self.size).num_tokens - tokens // self.each * self.each
        return replace(self, extra=self.extra - max(0, beyond))


def nano_config(
    vision: EfficientNetConfig,
    language: DecoderConfig,
    image_token_id: int,
    *,
    words: tuple[int, int, int],
    hidden_dim: int = 256,
    num_layers: int = 2,
    num_heads: int = 4,
    num_slots: int = 8,
    doubt: float = 0.0,
) -> NanoConfig:
    """A nano of two towers: the connector's outer shapes follow from them.

    Args:
        vision, language, image_token_id: see `NanoConfig`.
        words: names, places and counts that the connector knows; a phrase takes 2, 2 and 1 tokens.
        hidden_dim, num_layers, num_heads, num_slots, doubt: see `SoftWordsConfig`.
    """
    connector = SoftWordsConfig(
        input_dim=vision.cell_dim,
        output_dim=language.hidden_dim,
        num_positions=(vision.image_size // CELL) ** 2,
        hidden_dim=hidden_dim,
        num_layers=num_layers,
        num_heads=num_heads,
        words=words,
        tokens=(2, 2, 1),
        num_slots=num_slots,
        doubt=doubt,
    )
    return NanoConfig(vision=vision, connector=connector, language=language, image_token_id=image_token_id)


def processor(config: NanoConfig, parts: Parts) -> Processor:
    """The whole picture stretched to the tower's square; SmolLM2's turns without its default system prompt."""
    parts.tokenizer.add_control("<image>")
    size = (config.vision.image_size, config.vision.image_size)
    spoken = config.connector.num_tokens - config.connector.num_positions  # the connector speaks of some cells only
    pictures = ImageProcessor(
        tiler=Phrases(size=size, patch=CELL, extra=spoken, each=sum(config.connector.tokens)),
        rescale_factor=1.0,
        mean=(127.0,) * 3,
        std=(128.0,) * 3,
    )
    return Processor(parts.tokenizer, pictures, template=CHATML_TEMPLATE, max_length=config.language.context_length)


def _nano() -> NanoConfig:
    language = llama(49152, 576, 30, 9, 3, 1536, context=8192, theta=1e5, tie_embeddings=True)
    return nano_config(EFFICIENTNET_LITE["efficientnet_lite0"], language, image_token_id=49152, words=(369, 9, 5))


def tiny() -> tuple[NanoConfig, Processor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("chatml")
    vision = EfficientNetConfig(image_size=64, width=0.25, depth=0.25, hidden_dim=32, num_classes=10)
    language = llama(len(tokenizer), 48, 2, 4, 2, 96, context=2048, tie_embeddings=True)
    image_token_id = tokenizer.token_to_id("<image>") or 0
    config = nano_config(
        vision, language, image_token_id, words=(7, 9, 5), hidden_dim=32, num_layers=1, num_heads=2, num_slots=2
    )
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="nano",
        summary="EfficientNet-Lite through soft words into SmolLM2-135M; the bundled model's family",
        paper="none; LLaVA's fusion (Liu et al. 2023) with EfficientNet-Lite (Tan & Le 2019)",
        capabilities=("generate", "score"),
        config_type=NanoConfig,
        presets={"nano": _nano()},
        tiny=tiny,
        processor=processor,
    )
)
