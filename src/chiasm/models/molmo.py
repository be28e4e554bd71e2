"""Molmo (Deitke et al. 2024, "Molmo and PixMo: Open Weights and Open Data for State-of-the-Art Multimodal Models").

CLIP over the whole picture and over overlapping crops (§2); patches of two layers side by side; windows of 2×2
patches pooled with their mean as the query; a gated projector. Crops are trimmed of their margins and laid out row by
row, a column token after each row, a start and an end around each of the two views; features are added to the patch
token's embedding. Points are written as percent of the picture.

As released: the padding embeddings are looked up with the crops' masks shifted by one, because the preprocessing puts
the whole picture's mask last while its pixels come first; the last crop counts as partly padded everywhere. The
weights were trained so, and it is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from chiasm.connectors.mean_query_pool import MeanQueryPoolConfig
from chiasm.core.plan import Crop, ImagePlan
from chiasm.core.registry import Family, register
from chiasm.fusion.splice import SplicedLM
from chiasm.language.decoder import DecoderConfig
from chiasm.language.mixture import MixtureDecoderConfig
from chiasm.language.reordered import ReorderedDecoderConfig
from chiasm.models.assembly import Parts, clip_tower, llama
from chiasm.nn.attention import QKNormConfig
from chiasm.nn.positions import RotaryConfig
from chiasm.processing.coordinates import PercentPoints
from chiasm.processing.dynamic_tilers import OverlapCrops
from chiasm.processing.image_processor import ImageProcessor
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import Processor
from chiasm.vision.vit import ViT, ViTConfig

START, END, PATCH, COLUMN = range(4)  # rows of the added embedding
ADDED = 128
TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.content is not string -%}
{%- for part in message.content if part.type == 'image' -%}{{ '<|image|>' }}{%- endfor -%}
{%- endif -%}
{{ ' User:' if message.role != 'assistant' else ' Assistant:' }}
{%- if message.content is string -%}{{ ' ' + message.content }}
{%- else -%}
{%- for part in message.content if part.type == 'text' -%}{{ ' ' + part.text }}{%- endfor -%}
{%- endif -%}
{%- if message.role == 'assistant' -%}{{ eos_token }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ ' Assistant:' }}{%- endif -%}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class MolmoConfig:
    """A Molmo.

    Attributes:
        vision: CLIP's tower.
        connector: pooling and projector.
        language: Qwen2, OLMo or OLMoE.
        image_token_id: id of a picture slot.
        layers: the layers whose patches are read, as indices into [embeddings, block 1, …, block L].
        margin: patches at each side of a crop that its neighbour shows as well.
        max_crops: most crops of a picture.
    """

    vision: ViTConfig
    connector: MeanQueryPoolConfig
    language: DecoderConfig | MixtureDecoderConfig | ReorderedDecoderConfig
    image_token_id: int
    layers: tuple[int, int] = (-2, -9)
    margin: int = 4
    max_crops: int = 12

    @property
    def unread(self) -> tuple[str, ...]:
        """Prefixes of weights that published files carry and nothing reads: blocks beyond the last layer read."""
        count = self.vision.num_layers
        return tuple(f"vision.blocks.{at}." for at in range(count + 1 + max(self.layers), count)) or ("\0",)

    def build(self) -> Molmo:
        """A model with random weights."""
        return Molmo(self)


class Molmo(SplicedLM):
    """vision → connector → language, structure tokens between the rows."""

    vision: ViT

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__(config.vision.build(), config.connector.build(), config.language.build())
        self.config = config
        self.added_embed = nn.Parameter(torch.zeros(ADDED, config.language.hidden_dim))
        self.pad_embed = nn.Parameter(torch.zeros(2, config.connector.input_dim))

    def init_weights(self) -> None:
        """Draw the added embeddings as the reference does."""
        nn.init.normal_(self.added_embed, std=0.02)
        nn.init.normal_(self.pad_embed, std=0.02)

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(crops, 3, h, w) → (crops, P, 2·D) patches of both layers, the first named first."""
        return torch.cat(self.vision.features_of(pixels, self.config.layers), -1)[:, 1:]

    def connect(self, features: torch.Tensor, plans: list[ImagePlan] | tuple[ImagePlan, ...]) -> list[torch.Tensor]:
        """Padding marked, windows pooled, rows laid out; see `SplicedLM.connect`."""
        covered = torch.stack([row for plan in plans for row in self._covered(plan)]).to(features.device)
        blank = (covered == 0).to(features.dtype)[..., None]
        partly = ((covered < 1) & (covered != 0)).to(features.dtype)[..., None]
        return super().connect(features + blank * self.pad_embed[0] + partly * self.pad_embed[1], plans)

    def _covered(self, plan: ImagePlan) -> list[torch.Tensor]:
        """(P,) for each crop: the share of each patch that shows the picture, shifted by one as released."""
        size, side = self.config.vision.patch_size, self.config.vision.grid
        shares = [_shares(crop, size, side) for crop in plan.crops[1:]]
        return [*shares, torch.full((side * side,), -1.0)]

    def arrange(self, tokens: torch.Tensor, plan: ImagePlan) -> torch.Tensor:
        """Both views with their structure tokens.

        Args:
            tokens: (1 + rows·columns, P, D), the whole picture first.
            plan: its `grid` is (rows, columns) of crops, its `tokens` (h, w) of one.

        Returns:
            (N, D).
        """
        (rows, columns), (h, w) = plan.grid, plan.tokens
        skip = self.config.margin // self.config.connector.pool
        grids = tokens.view(-1, h, w, tokens.shape[-1])
        lines = []
        for row in range(rows):
            top, bottom = (0 if row == 0 else skip), (h if row == rows - 1 else h - skip)
            parts = []
            for column in range(columns):
                left, right = (0 if column == 0 else skip), (w if column == columns - 1 else w - skip)
                parts.append(grids[1 + row * columns + column, top:bottom, left:right])
            lines.append(torch.cat(parts, 1))
        return torch.cat((self._view(grids[0]), self._view(torch.cat(lines))))

    def _view(self, grid: torch.Tensor) -> torch.Tensor:
        """(h, w, D) → start, rows with a column token each, end."""
        added = self.added_embed.to(grid.dtype)
        grid = torch.cat((grid + added[PATCH], added[COLUMN].expand(len(grid), 1, -1)), 1)
        return torch.cat((added[START, None], grid.flatten(0, 1), added[END, None]))


def _shares(crop: Crop, size: int, side: int) -> torch.Tensor:
    (width, height), (left, top) = crop.resized, crop.offset
    edges = torch.arange(side + 1) * size
    across = (edges[1:].clamp(max=left + width) - edges[:-1].clamp(min=left)).clamp(min=0) / size
    down = (edges[1:].clamp(max=top + height) - edges[:-1].clamp(min=top)).clamp(min=0) / size
    return (down[:, None] * across).flatten()


def _molmo(language: DecoderConfig, projector: int, slot: int) -> MolmoConfig:
    vision = clip_tower(336, layers=23)
    return MolmoConfig(
        vision=_headless(vision),
        connector=MeanQueryPoolConfig(
            input_dim=2048, pooled_dim=1024, num_heads=16, hidden_dim=projector, output_dim=language.hidden_dim
        ),
        language=language,
        image_token_id=slot,
    )


def _headless(vision: ViTConfig) -> ViTConfig:
    return replace(vision, norm_post=False)


_QWEN: dict[str, Any] = {"context": 4096, "theta": 1e6, "eps": 1e-6, "qkv_bias": True}
OLMO_7B_1024 = ReorderedDecoderConfig(
    vocab_size=100352, hidden_dim=4096, num_layers=32, num_heads=32, num_kv_heads=32, mlp_dim=11008,
    context_length=4096, norm_eps=1e-6, rotary=RotaryConfig(theta=5e5), qk_norm=QKNormConfig(eps=1e-6),
)  # fmt: skip
OLMOE_1B_7B = MixtureDecoderConfig(
    vocab_size=50304, hidden_dim=2048, num_layers=16, num_heads=16, num_kv_heads=16, mlp_dim=1024,
    context_length=4096, norm_eps=1e-5, qk_norm=QKNormConfig(eps=1e-5), num_experts=64, top_k=8, expert_dim=1024,
)  # fmt: skip
PRESETS = {
    "molmo_e_1b": _molmo(OLMOE_1B_7B, 1024, 50308),
    "molmo_7b_o": _molmo(OLMO_7B_1024, 11008, 100356),
    "molmo_7b_d": _molmo(llama(152064, 3584, 28, 28, 4, 18944, **_QWEN), 18944, 152068),
    "molmo_72b": _molmo(llama(152064, 8192, 80, 64, 8, 29568, **{**_QWEN, "eps": 1e-5}), 29568, 152068),
}


def processor(config: MolmoConfig, parts: Parts) -> Processor:
    """Overlapping crops, and the whole picture first."""
    vision = config.vision
    settings = {"image_processor_type": "MolmoImageProcessor", **(parts.pictures or {})}
    tiler = OverlapCrops(
        side=vision.image_size,
        max_crops=int(settings.get("max_crops", config.max_crops)),
        margin=config.margin,
        patch=vision.patch_size,
        pool=config.connector.pool,
    )
    slot = "<|image|>"
    if parts.tokenizer.token_to_id(slot) is None:
        slot = parts.tokenizer.id_to_token(config.image_token_id) or slot
    return Processor(
        parts.tokenizer,
        ImageProcessor(tiler=tiler),
        template=TEMPLATE.replace("<|image|>", slot),
        image_token=slot,
        max_length=config.language.context_length,
        settings={"processor_class": "MolmoProcessor", **parts.settings},
    )


def tiny() -> tuple[MolmoConfig, Processor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("chatml", image_token="<|image|>")
    vision = _headless(clip_tower(48, patch=4, width=32, layers=3, heads=2))
    config = MolmoConfig(
        vision=vision,
        connector=MeanQueryPoolConfig(input_dim=64, pooled_dim=32, num_heads=2, hidden_dim=40, output_dim=48),
        language=llama(len(tokenizer), 48, 2, 4, 2, 96, context=2048, qkv_bias=True),
        image_token_id=tokenizer.token_to_id("<|image|>") or 0,
        layers=(-2, -3),
        margin=2,
        max_crops=4,
    )
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="molmo",
        summary="overlapping crops, two-layer features, mean-query pooling, points in percent; Qwen2, OLMo, OLMoE",
        paper="Deitke et al. 2024, Molmo and PixMo: Open Weights and Open Data for State-of-the-Art VLMs",
        capabilities=("generate", "score", "ground"),
        config_type=MolmoConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
        places=PercentPoints(question="Point to {phrase}."),
    )
)
