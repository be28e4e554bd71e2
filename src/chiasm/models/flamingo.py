"""Flamingo (Alayrac et al. 2022, "Flamingo: a Visual Language Model for Few-Shot Learning") and OpenFlamingo
(Awadalla et al. 2023).

A frozen tower, a Perceiver resampler (64 latents, six layers), gated cross-attention before every n-th layer of a
frozen language model. Text, pictures and videos may come in any order; a text token sees the last of them before it.
Flamingo: NFNet-F6 at 320 px, squared ReLU, time embeddings, Chinchilla. OpenFlamingo: CLIP's ViT-L/14, GELU, MPT.

Departures: Chinchilla's relative positions are rotary here (there are no published weights), which saves one matrix a
layer: 5.4 of the largest model's 70 billion. OpenFlamingo reads the tower's last states as they are, as the open_clip
of its time gave them; later versions of open_clip normalise them (`reading`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from chiasm.connectors.resampler import ResamplerConfig
from chiasm.core.registry import Family, register
from chiasm.fusion.gated_cross_attention import GatedCrossAttentionLM, GatesConfig
from chiasm.language.decoder import DecoderConfig
from chiasm.models.assembly import Parts, clip_tower, picture_processor
from chiasm.models.languages import chinchilla, mpt
from chiasm.processing.interleaved import CHUNK_TEMPLATE, FilmedPictures, InterleavedProcessor
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.video import FpsSampling, VideoReading
from chiasm.vision.cells import CellTower, CellTowerConfig
from chiasm.vision.nfnet import NFNet, NFNetConfig, nfnet_f6
from chiasm.vision.patches import FinalStates, PatchSelection
from chiasm.vision.vit import ViT, ViTConfig

END = "<|endofchunk|>"


@dataclass(frozen=True, kw_only=True, slots=True)
class FlamingoConfig:
    """A Flamingo.

    Attributes:
        vision: the picture tower.
        connector: the resampler, at the tower's width.
        language: the language model.
        gates: the gated layers.
        image_token_id: id of the word that stands for a picture.
        reading: which of a ViT's states are features.
    """

    vision: ViTConfig | NFNetConfig | CellTowerConfig
    connector: ResamplerConfig
    language: DecoderConfig
    gates: GatesConfig
    image_token_id: int
    reading: PatchSelection | FinalStates = PatchSelection(layer=-1)

    @property
    def unread(self) -> tuple[str, ...]:
        """Parameters that take no part."""
        if isinstance(self.vision, NFNetConfig):
            return ("\0",)
        return tuple(f"vision.{name}" for name in self.reading.unread(self.vision)) or ("\0",)

    def build(self) -> Flamingo:
        """A model with random weights."""
        return Flamingo(self)


class Flamingo(GatedCrossAttentionLM):
    """vision → resampler → gated layers in a language model."""

    vision: ViT | NFNet | CellTower
    plain_reading: ClassVar[bool] = True  # `visual_features` is what `reading` says, for the store of features

    def __init__(self, config: FlamingoConfig) -> None:
        super().__init__(
            config.vision.build(),
            config.connector.build(),
            config.language.build(),
            config.gates,
            config.connector.output_dim or config.connector.input_dim,
        )
        self.config = config

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(crops, 3, h, w) → (crops, P, D) features, before the resampler."""
        if isinstance(self.vision, NFNet):
            return self.vision.features(pixels).flatten(2).transpose(1, 2)
        return self.config.reading.read(self.vision, pixels)


def _flamingo(width: int, layers: int, heads: int, every: int) -> FlamingoConfig:
    """Table 4 of the paper: a gated layer before each group of `every` layers."""
    vision = nfnet_f6(320)
    resampler = ResamplerConfig(
        input_dim=vision.width, output_dim=None, num_heads=16, head_dim=96, mlp_dim=6144, act="relu2", max_frames=8
    )
    gates = GatesConfig(every=every, first=0, num_heads=heads, head_dim=128, mlp_dim=4 * width, act="relu2")
    language = chinchilla(32002, width, layers, heads)
    return FlamingoConfig(vision=vision, connector=resampler, language=language, gates=gates, image_token_id=32000)


def _open_flamingo(language: DecoderConfig, every: int) -> FlamingoConfig:
    vision = clip_tower(224)
    resampler = ResamplerConfig(input_dim=vision.hidden_dim, output_dim=None)
    gates = GatesConfig(every=every, first=every - 1, num_heads=8, head_dim=64, mlp_dim=4 * language.hidden_dim)
    slot = language.vocab_size - 2
    return FlamingoConfig(vision=vision, connector=resampler, language=language, gates=gates, image_token_id=slot)


PRESETS = {
    "flamingo_3b": _flamingo(2048, 24, 16, 1),
    "flamingo_9b": _flamingo(4096, 40, 32, 4),
    "flamingo_80b": _flamingo(8192, 80, 64, 7),
    "open_flamingo_3b_mpt_1b": _open_flamingo(mpt(50280, 2048, 24, 16), 1),
    "open_flamingo_9b_mpt_7b": _open_flamingo(mpt(50280, 4096, 32, 32), 4),
}


def processor(config: FlamingoConfig, parts: Parts) -> InterleavedProcessor:
    """A picture's place is one token, and so is a video's, where the resampler has learned times (§2.1: 1 a second)."""
    size, frames = config.vision.image_size, config.connector.max_frames
    pictures = picture_processor(parts, "CLIPImageProcessor", size)
    slot = parts.tokenizer.id_to_token(config.image_token_id)
    sampling = FpsSampling(fps=1.0, min_frames=1, max_frames=frames, multiple=1)
    return InterleavedProcessor(
        parts.tokenizer,
        FilmedPictures.of(pictures, 1),
        END,
        template=parts.template or CHUNK_TEMPLATE,
        image_token=slot,
        video=VideoReading(sampling=sampling, token=slot) if frames else None,
        max_length=config.language.context_length,
        settings=parts.settings,
    )


def tiny() -> tuple[FlamingoConfig, InterleavedProcessor]:
    """A miniature with every part of the real one: OpenFlamingo's, gates opened a little so that pictures matter."""
    tokenizer = tiny_tokenizer("opt", controls=(END,))
    config = FlamingoConfig(
        vision=clip_tower(32, patch=8, width=32, layers=2, heads=2, mlp=64),
        connector=ResamplerConfig(
            input_dim=32,
            output_dim=None,
            num_latents=4,
            num_layers=2,
            num_heads=2,
            head_dim=8,
            mlp_dim=64,
            max_frames=4,
        ),
        language=mpt(len(tokenizer), 48, 4, 4, context=512),
        gates=GatesConfig(every=2, first=1, num_heads=4, head_dim=8, mlp_dim=96),
        image_token_id=tokenizer.token_to_id("<image>") or 0,
    )
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="flamingo",
        summary="Pictures, resampled, seen through gated cross-attention between the layers of a frozen language model",
        paper="Alayrac et al. 2022, Flamingo: a Visual Language Model for Few-Shot Learning; Awadalla et al. 2023",
        capabilities=("generate", "score"),
        config_type=FlamingoConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
