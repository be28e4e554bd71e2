"""LLaVA-NeXT, also LLaVA-1.6 (Liu et al. 2024, "LLaVA-NeXT: Improved reasoning, OCR, and world knowledge").

LLaVA-1.5 over several crops: the whole picture at the tower's resolution, then tiles of the picture fitted into the
best of a few canvases. The tiles' tokens are put back into one grid, the canvas's padding is cut away, and a
learned newline ends every row; the whole picture's tokens come first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import nn

from chiasm.connectors.mlp import MLPConnectorConfig
from chiasm.core.plan import ImagePlan
from chiasm.core.registry import Family, register
from chiasm.fusion.splice import SplicedLM
from chiasm.language.decoder import DecoderConfig
from chiasm.models.assembly import Parts, clip_tower, llama, picture_processor
from chiasm.processing.miniature import CHATML_TEMPLATE, tiny_tokenizer
from chiasm.processing.processor import Processor
from chiasm.processing.tilers import unpadded_grid
from chiasm.vision.patches import PatchSelection
from chiasm.vision.vit import ViT, ViTConfig

PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


@dataclass(frozen=True, kw_only=True, slots=True)
class LlavaNextConfig:
    """A LLaVA-NeXT.

    Attributes:
        vision: CLIP's tower.
        connector: two layers.
        language: the language model.
        image_token_id: id of a picture slot.
        pinpoints: (height, width) of the canvases that tiles may fill, in pixels.
        selection: which patches are read.
    """

    vision: ViTConfig
    connector: MLPConnectorConfig
    language: DecoderConfig
    image_token_id: int
    pinpoints: tuple[tuple[int, int], ...] = PINPOINTS
    selection: PatchSelection = PatchSelection()

    def build(self) -> LlavaNext:
        """A model with random weights."""
        return LlavaNext(self)


class LlavaNext(SplicedLM):
    """vision → connector → language, one picture being a base crop and a grid of tiles."""

    vision: ViT

    def __init__(self, config: LlavaNextConfig) -> None:
        super().__init__(config.vision.build(), config.connector.build(), config.language.build())
        self.config = config
        self.image_newline = nn.Parameter(torch.zeros(config.language.hidden_dim))

    def init_weights(self) -> None:
        """Draw the newline as the reference does."""
        nn.init.normal_(self.image_newline, std=self.config.language.hidden_dim**-0.5)

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(crops, 3, h, w) → (crops, P, D) patches of one layer."""
        return self.config.selection.read(self.vision, pixels)

    def arrange(self, tokens: torch.Tensor, plan: ImagePlan) -> torch.Tensor:
        """Base crop, then the tiles as one grid without its padding, a newline at the end of every row.

        Args:
            tokens: (1 + rows·columns, P, D), base crop first.
            plan: its `grid` is (rows, columns) of tiles, its `tokens` (h, w) of one crop.

        Returns:
            (N, D).
        """
        newline = self.image_newline.to(tokens.dtype)
        base, tiles = tokens[0], tokens[1:]
        if not len(tiles):
            return torch.cat((base, newline[None]))
        (rows, columns), (h, w) = plan.grid, plan.tokens
        grid = rearrange(tiles, "(r c) (h w) d -> (r h) (c w) d", r=rows, c=columns, h=h, w=w)
        top, left, height, width = unpadded_grid(plan.source, (rows * h, columns * w))
        grid = grid[top : top + height, left : left + width]
        grid = torch.cat((grid, newline.expand(height, 1, -1)), 1)
        return torch.cat((base, grid.flatten(0, 1)))


def _next(language: DecoderConfig, image_token_id: int) -> LlavaNextConfig:
    vision = clip_tower(336)
    connector = MLPConnectorConfig(input_dim=vision.hidden_dim, output_dim=language.hidden_dim)
    return LlavaNextConfig(vision=vision, connector=connector, language=language, image_token_id=image_token_id)


PRESETS = {
    "llava_next_vicuna_7b": _next(llama(32064, 4096, 32, 32, 32, 11008, context=4096), 32000),
    "llava_next_vicuna_13b": _next(llama(32064, 5120, 40, 40, 40, 13824, context=4096), 32000),
    "llava_next_mistral_7b": _next(llama(32064, 4096, 32, 32, 8, 14336, context=32768, theta=1e6), 32000),
    "llava_next_34b": _next(llama(64064, 7168, 60, 56, 8, 20480, context=4096, theta=5e6), 64000),
    "llava_next_llama3_8b": _next(llama(128320, 4096, 32, 32, 8, 14336, context=8192, theta=5e5), 128256),
    "llava_next_72b": _next(
        llama(152064, 8192, 80, 64, 64, 24576, context=32768, theta=1e6, eps=1e-6, qkv_bias=True), 151646
    ),
    "llava_next_110b": _next(
        llama(152064, 8192, 80, 64, 8, 49152, context=32768, theta=1e6, eps=1e-6, qkv_bias=True), 151646
    ),
}


def processor(config: LlavaNextConfig, parts: Parts) -> Processor:
    """A base crop and the tiles of the best canvas."""
    pictures = picture_processor(
        parts,
        "LlavaNextImageProcessor",
        config.vision.image_size,
        patch=config.vision.patch_size,
        extra=config.selection.extra(config.vision),
        pinpoints=config.pinpoints,
    )
    return parts.conversational(pictures, config.image_token_id, config.language.context_length)


def tiny() -> tuple[LlavaNextConfig, Processor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("chatml")
    config = LlavaNextConfig(
        vision=clip_tower(32, patch=8, width=32, layers=3, heads=2, mlp=64),
        connector=MLPConnectorConfig(input_dim=32, output_dim=48),
        language=llama(len(tokenizer), 48, 2, 4, 2, 96, context=2048),
        image_token_id=tokenizer.token_to_id("<image>") or 0,
        pinpoints=((32, 64), (64, 32), (64, 64)),
    )
    return config, processor(config, Parts(tokenizer, template=CHATML_TEMPLATE))


FAMILY: Family = register(
    Family(
        name="llava_next",
        summary="LLaVA-1.5 over a base crop and tiles at any resolution",
        paper="Liu et al. 2024, LLaVA-NeXT: Improved reasoning, OCR, and world knowledge",
        capabilities=("generate", "score"),
        config_type=LlavaNextConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
