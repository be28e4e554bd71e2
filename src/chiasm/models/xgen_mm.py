"""xGen-MM, also BLIP-3 (Xue et al. 2024, "xGen-MM (BLIP-3): A Family of Open Large Multimodal Models").

SigLIP-So400m at 384 px, its normalised states, a Perceiver resampler with 128 latents at the tower's width, projected
to Phi-3-mini (§2.1); one loss, the next word of interleaved text. Instructed models see the whole picture and, where
`pinpoints` names canvases, its tiles at any resolution; the resampler reads each by itself, patches of padding masked.

The tiles' features are stitched to one grid and cut again into lines of as many patches as a tile has, as in the
published code: a resampled part of a canvas of several columns is a band of rows, not a tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange

from chiasm.connectors.choice import Connector
from chiasm.connectors.resampler import Resampler, ResamplerConfig
from chiasm.core.plan import ImagePlan
from chiasm.core.registry import Family, register
from chiasm.fusion.bridge import BridgedLM, crop_tokens
from chiasm.language.decoder import DecoderConfig
from chiasm.models.assembly import Parts, llama, vit
from chiasm.processing.image_processor import ImageProcessor
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import Processor
from chiasm.processing.resampled import ResampledPictures
from chiasm.processing.tilers import AnyRes, Stretch, unpadded_grid
from chiasm.vision.cells import CellTowerConfig
from chiasm.vision.patches import FinalStates, PatchSelection
from chiasm.vision.vit import ViTConfig

WORDS = ("<image>", "<image placeholder>", "<|endofchunk|>")  # added behind Phi-3's vocabulary, in this order
PINPOINTS = ((384, 768), (768, 384), (768, 768), (1152, 384), (384, 1152))
# the model card's prompt
TEMPLATE = """\
{%- if messages[0].role != 'system' -%}
{{ '<|system|>\\nA chat between a curious user and an artificial intelligence assistant. ' }}
{{- "The assistant gives helpful, detailed, and polite answers to the user's questions.<|end|>\\n" }}
{%- endif -%}
{%- for message in messages -%}
{{ '<|' + message.role + '|>\\n' }}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{ '<image>\\n' }}{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>\\n' }}{%- endif -%}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class XGenMMConfig:
    """An xGen-MM.

    Attributes:
        vision: SigLIP's tower.
        connector: the resampler; any other connector fits as well.
        language: Phi-3.
        image_token_id: id of a picture slot.
        pinpoints: (height, width) of the canvases for tiles; none = the whole picture alone.
        stored_words: rows of the published vocabulary's first table, of which those before the added words are read.
        reading: which of the tower's states are features.
    """

    vision: ViTConfig | CellTowerConfig
    connector: Connector
    language: DecoderConfig
    image_token_id: int
    pinpoints: tuple[tuple[int, int], ...] = ()
    stored_words: int = 32064
    reading: FinalStates | PatchSelection = FinalStates(keep_class_token=False)

    @property
    def unread(self) -> tuple[str, ...]:
        """Parameters that take no part."""
        names = [f"vision.{name}" for name in self.reading.unread(self.vision)]
        return (*names, *(("vision.pool.",) if self.vision.attention_pool else ())) or ("\0",)

    def build(self) -> XGenMM:
        """A model with random weights."""
        return XGenMM(self)


class XGenMM(BridgedLM):
    """vision → resampler, for the whole picture and for its tiles → Phi-3."""

    config: XGenMMConfig

    def connect(self, features: torch.Tensor, plans: list[ImagePlan] | tuple[ImagePlan, ...]) -> list[torch.Tensor]:
        """(crops, P, D) features → one (N, D) tensor a picture, the whole picture's tokens first."""
        pieces = features.split([len(plan.crops) for plan in plans])
        parts, masks = zip(*(banded(piece, plan) for piece, plan in zip(pieces, plans, strict=True)), strict=True)
        x, attend = torch.cat(parts), torch.cat(masks)
        tokens = self.connector(x, attend) if isinstance(self.connector, Resampler) else self.connector(x)
        return [piece.flatten(0, 1) for piece in tokens.split([len(part) for part in parts])]


def banded(features: torch.Tensor, plan: ImagePlan) -> tuple[torch.Tensor, torch.Tensor]:
    """One picture's crops as the resampler reads them.

    Args:
        features: (crops, P, D), the whole picture first, then the tiles row by row.
        plan: its `grid` is (rows, columns) of tiles.

    Returns:
        (crops, P, D): the tiles' stitched grid cut into bands; (crops, P) bool, False = padding.
    """
    seen = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
    if len(features) == 1:
        return features, seen
    (rows, columns), side = plan.grid, round(features.shape[1] ** 0.5)
    grid = rearrange(features[1:], "(r c) (h w) d -> (r h) (c w) d", r=rows, c=columns, h=side, w=side)
    top, left, height, width = unpadded_grid(plan.source, (rows * side, columns * side))
    shown = torch.zeros(grid.shape[:2], dtype=torch.bool, device=features.device)
    shown[top : top + height, left : left + width] = True
    bands = grid.reshape(rows * columns, side**2, -1)
    seen[1:] = shown.reshape(rows * columns, side**2)
    return torch.cat((features[:1], bands)), seen


def tower(image: int, patch: int, width: int, layers: int, heads: int, mlp: int, *, pool: bool = False) -> ViTConfig:
    """SigLIP's ViT, read as patches; published files hold its pooling, too."""
    act = "gelu_pytorch_tanh"
    return vit(image, patch, width, layers, heads, mlp, act=act, class_token=False, attention_pool=pool)


def _xgen(pinpoints: tuple[tuple[int, int], ...]) -> XGenMMConfig:
    vision = tower(384, 14, 1152, 27, 16, 4304, pool=True)
    connector = ResamplerConfig(
        input_dim=1152, output_dim=3072, num_latents=128, num_heads=16, head_dim=96, mlp_dim=4608
    )
    language = llama(32015, 3072, 32, 32, 32, 8192, context=4096, head_bias=True)
    return XGenMMConfig(
        vision=vision, connector=connector, language=language, image_token_id=32012, pinpoints=pinpoints
    )


PRESETS = {"xgen_mm_phi3_mini": _xgen(PINPOINTS), "xgen_mm_phi3_mini_base": _xgen(())}


def processor(config: XGenMMConfig, parts: Parts) -> Processor:
    """The whole picture stretched to the tower's square, and tiles where there are canvases; SigLIP's colours."""
    side, stored = config.vision.image_size, parts.pictures or {}
    if parts.tokenizer.id_to_token(config.image_token_id) is None:  # published code adds them as it loads
        parts.tokenizer.add_control(*WORDS)
    pictures = ImageProcessor(
        tiler=AnyRes(side=side, pinpoints=config.pinpoints) if config.pinpoints else Stretch(size=(side, side)),
        mean=tuple(stored.get("image_mean") or (0.5, 0.5, 0.5)),
        std=tuple(stored.get("image_std") or (0.5, 0.5, 0.5)),
    )
    return Processor(
        parts.tokenizer,
        ResampledPictures.of(pictures, crop_tokens(config)),
        template=parts.template or TEMPLATE,
        image_token=parts.tokenizer.id_to_token(config.image_token_id),
        max_length=config.language.context_length,
        settings=parts.settings,
    )


def tiny() -> tuple[XGenMMConfig, Processor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("chatml", controls=WORDS[1:])
    config = XGenMMConfig(
        vision=tower(32, 8, 32, 2, 2, 64, pool=True),
        connector=ResamplerConfig(
            input_dim=32, output_dim=48, num_latents=4, num_layers=2, num_heads=2, head_dim=8, mlp_dim=64
        ),
        language=llama(len(tokenizer), 48, 2, 4, 4, 96, context=2048, head_bias=True),
        image_token_id=tokenizer.token_to_id("<image>") or 0,
        pinpoints=((32, 64), (64, 32), (64, 64)),
        stored_words=len(tokenizer) + 3,
    )
    return config, processor(config, Parts(tokenizer, template=tokenizer.chat_template))


FAMILY: Family = register(
    Family(
        name="xgen_mm",
        summary="SigLIP's patches through a Perceiver resampler into Phi-3",
        paper="Xue et al. 2024, xGen-MM (BLIP-3): A Family of Open Large Multimodal Models",
        capabilities=("generate", "score"),
        config_type=XGenMMConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
