"""InternVL 1.5, 2 and 2.5 (Chen et al. 2024, "How Far Are We to GPT-4V?"; 2024, "Expanding Performance Boundaries of
Open-Source Multimodal Models with Model, Data, and Test-Time Scaling").

InternViT over dynamic tiles of 448 pixels (1.5, §3.2), pixel shuffle to 256 tokens a tile, an MLP, and any language
model of the LLaMA family: Qwen2, InternLM2, Phi-3, Yi, Llama 3. A thumbnail follows the tiles. Frames of a video are
pictures of one tile each. InternViT-6B has RMSNorm and normalises queries and keys over the full width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from chiasm.connectors.pixel_shuffle import PixelShuffleConfig
from chiasm.core.registry import Family, register
from chiasm.fusion.splice import SplicedLM
from chiasm.language.decoder import DecoderConfig
from chiasm.models.assembly import Parts, llama, vit
from chiasm.nn.attention import QKNormConfig
from chiasm.processing.coordinates import GridBoxes
from chiasm.processing.dynamic_tilers import DynamicTiles
from chiasm.processing.image_processor import ImageProcessor
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import Processor
from chiasm.processing.video import UniformSampling, VideoReading
from chiasm.vision.patches import PatchSelection
from chiasm.vision.vit import ViT, ViTConfig

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WRAP = ("<img>", "</img>")


@dataclass(frozen=True, kw_only=True, slots=True)
class InternVLConfig:
    """An InternVL.

    Attributes:
        vision: InternViT.
        connector: pixel shuffle and MLP.
        language: the language model.
        image_token_id: id of a picture slot.
        min_tiles, max_tiles: limits of a picture's grid of tiles.
        thumbnail: whether a thumbnail follows several tiles.
        selection: which layer's patches are read.
    """

    vision: ViTConfig
    connector: PixelShuffleConfig
    language: DecoderConfig
    image_token_id: int
    min_tiles: int = 1
    max_tiles: int = 12
    thumbnail: bool = True
    selection: PatchSelection = PatchSelection(layer=-1)

    def build(self) -> InternVL:
        """A model with random weights."""
        return InternVL(self)


class InternVL(SplicedLM):
    """vision → connector → language over tiles."""

    vision: ViT

    def __init__(self, config: InternVLConfig) -> None:
        super().__init__(config.vision.build(), config.connector.build(), config.language.build())
        self.config = config

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(crops, 3, h, w) → (crops, P, D) patches of one layer."""
        return self.config.selection.read(self.vision, pixels)


def intern_vit(width: int = 1024, layers: int = 24, heads: int = 16, mlp: int = 4096, *, image: int = 448) -> ViTConfig:
    """InternViT-300M by default; the 6B tower is wider and normalises differently."""
    large = width >= 3200
    return vit(
        image, 14, width, layers, heads, mlp, norm_post=False, rms_norm=large, qkv_bias=not large,
        qk_norm=QKNormConfig(eps=1e-6) if large else None, layer_scale=0.1,
    )  # fmt: skip


INTERN_VIT_300M = intern_vit()
INTERN_VIT_6B = intern_vit(3200, 45, 25, 12800)


def _internvl(vision: ViTConfig, language: DecoderConfig, image_token_id: int) -> InternVLConfig:
    connector = PixelShuffleConfig(input_dim=vision.hidden_dim, output_dim=language.hidden_dim)
    return InternVLConfig(vision=vision, connector=connector, language=language, image_token_id=image_token_id)


def _qwen(vocab: int, width: int, layers: int, heads: int, kv: int, mlp: int) -> DecoderConfig:
    return llama(vocab, width, layers, heads, kv, mlp, context=32768, theta=1e6, eps=1e-6, qkv_bias=True)


def _internlm2(width: int, layers: int, heads: int, mlp: int) -> DecoderConfig:
    return llama(92553, width, layers, heads, 8, mlp, context=32768, theta=1e6)


_PHI3_MINI = llama(32020, 3072, 32, 32, 32, 8192, context=4096)
_YI_34B = llama(64007, 7168, 60, 56, 8, 20480, context=4096, theta=5e6)
_LLAMA3_70B = llama(128265, 8192, 80, 64, 8, 28672, context=8192, theta=5e5)
_SMALL, _LARGE, _SLOT = INTERN_VIT_300M, INTERN_VIT_6B, 92546
PRESETS = {
    "internvl_1_5_26b": _internvl(_LARGE, _internlm2(6144, 48, 48, 16384), _SLOT),
    "internvl2_1b": _internvl(_SMALL, _qwen(151655, 896, 24, 14, 2, 4864), 151648),
    "internvl2_2b": _internvl(_SMALL, _internlm2(2048, 24, 16, 8192), _SLOT),
    "internvl2_4b": _internvl(_SMALL, _PHI3_MINI, 32013),
    "internvl2_8b": _internvl(_SMALL, _internlm2(4096, 32, 32, 14336), _SLOT),
    "internvl2_26b": _internvl(_LARGE, _internlm2(6144, 48, 48, 16384), _SLOT),
    "internvl2_40b": _internvl(_LARGE, _YI_34B, 64000),
    "internvl2_76b": _internvl(_LARGE, _LLAMA3_70B, 128258),
    "internvl2_5_1b": _internvl(_SMALL, _qwen(151674, 896, 24, 14, 2, 4864), 151667),
    "internvl2_5_2b": _internvl(_SMALL, _internlm2(2048, 24, 16, 8192), _SLOT),
    "internvl2_5_4b": _internvl(_SMALL, _qwen(151674, 2048, 36, 16, 2, 11008), 151667),
    "internvl2_5_8b": _internvl(_SMALL, _internlm2(4096, 32, 32, 14336), _SLOT),
    "internvl2_5_26b": _internvl(_LARGE, _internlm2(6144, 48, 48, 16384), _SLOT),
    "internvl2_5_38b": _internvl(_LARGE, _qwen(151674, 5120, 64, 40, 8, 27648), 151667),
    "internvl2_5_78b": _internvl(_LARGE, _qwen(151674, 8192, 80, 64, 8, 29568), 151667),
}


def processor(config: InternVLConfig, parts: Parts) -> Processor:
    """Tiles as the model's configuration says; colours as the folder's settings do."""
    side = config.vision.image_size
    tiler = DynamicTiles(
        side=side,
        min_tiles=config.min_tiles,
        max_tiles=config.max_tiles,
        thumbnail=config.thumbnail,
        patch=config.vision.patch_size * config.connector.scale,
    )
    stored = parts.pictures or {}
    pictures = ImageProcessor(
        tiler=tiler,
        mean=tuple(stored.get("image_mean") or IMAGENET_MEAN),
        std=tuple(stored.get("image_std") or IMAGENET_STD),
    )
    tokens = parts.tokenizer
    slot = "<IMG_CONTEXT>" if tokens.token_to_id("<IMG_CONTEXT>") is not None else None
    return Processor(
        tokens,
        pictures,
        template=parts.template,
        image_token=slot or tokens.id_to_token(config.image_token_id),
        max_length=config.language.context_length,
        settings={"processor_class": "InternVLProcessor", "image_seq_length": tiler.fewest_tokens, **parts.settings},
        video=VideoReading(sampling=UniformSampling(frames=8)),
        wrap=WRAP if all(tokens.token_to_id(token) is not None for token in WRAP) else None,
    )


def tiny() -> tuple[InternVLConfig, Processor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("chatml", image_token="<IMG_CONTEXT>", controls=WRAP)
    vision = vit(
        32, 8, 32, 3, 2, 64, norm_post=False, rms_norm=True, qkv_bias=False, qk_norm=QKNormConfig(), layer_scale=0.1
    )
    config = InternVLConfig(
        vision=vision,
        connector=PixelShuffleConfig(input_dim=32, output_dim=48),
        language=llama(len(tokenizer), 48, 2, 4, 2, 96, context=2048, qkv_bias=True),
        image_token_id=tokenizer.token_to_id("<IMG_CONTEXT>") or 0,
        max_tiles=6,
    )
    return config, processor(config, Parts(tokenizer, template=tokenizer.chat_template))


FAMILY: Family = register(
    Family(
        name="internvl",
        summary="InternViT over dynamic tiles, pixel shuffle, any LLaMA-family language model; video as frames",
        paper="Chen et al. 2024, How Far Are We to GPT-4V?; 2024, Expanding Performance Boundaries (InternVL 2.5)",
        capabilities=("generate", "score", "ground"),
        config_type=InternVLConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
        places=GridBoxes(
            question="Please provide the bounding box coordinate of the region this sentence describes: {phrase}",
            before="<box>",
            after="</box>",
        ),
    )
)
