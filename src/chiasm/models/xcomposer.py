"""InternLM-XComposer2-4KHD (Dong et al. 2024, "InternLM-XComposer2-4KHD: A Pioneering Large Vision-Language Model
Handling Resolutions from 336 Pixels to 4K HD").

CLIP's last layer over a global view and tiles of 336 pixels (§3.2), 2×2 patches joined, a learned newline at the end
of every row and a learned separator between the two views, then two layers. InternLM2 with partial LoRA: picture
tokens, newlines and separator among them, get a low-rank addition in every projection.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import nn

from chiasm.connectors.mlp import MLPConnectorConfig
from chiasm.core.batch import Batch
from chiasm.core.plan import ImagePlan
from chiasm.core.registry import Family, register
from chiasm.fusion.routed_weights import PartialLoraDecoderConfig
from chiasm.fusion.splice import SplicedLM
from chiasm.models.assembly import Parts, clip_tower
from chiasm.nn.positions import RotaryConfig
from chiasm.processing.dynamic_tilers import HDTransform
from chiasm.processing.image_processor import ImageProcessor
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import Processor
from chiasm.vision.vit import ViT, ViTConfig

JOIN = 2  # patches along one side of a visual token
TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{{ '[UNUSED_TOKEN_146]' + message.role + '\\n' }}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{ 'SLOT' }}{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '[UNUSED_TOKEN_145]\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '[UNUSED_TOKEN_146]assistant\\n' }}{%- endif -%}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class XComposerConfig:
    """An InternLM-XComposer2-4KHD.

    Attributes:
        vision: CLIP's tower.
        connector: two layers over joined patches.
        language: InternLM2 with partial LoRA.
        image_token_id: id that stands for visual tokens; it is never looked up.
        max_tiles: most tiles of a picture, the global view not counted.
    """

    vision: ViTConfig
    connector: MLPConnectorConfig
    language: PartialLoraDecoderConfig
    image_token_id: int
    max_tiles: int = 55

    @property
    def unread(self) -> tuple[str, ...]:
        """Prefixes of weights that published files carry and nothing reads."""
        return ("vision.norm_post.",)

    def build(self) -> XComposer:
        """A model with random weights."""
        return XComposer(self)


class XComposer(SplicedLM):
    """vision → connector → language, picture tokens through low-rank additions."""

    vision: ViT

    def __init__(self, config: XComposerConfig) -> None:
        super().__init__(config.vision.build(), config.connector.build(), config.language.build())
        self.config = config
        self.newline = nn.Parameter(torch.zeros(config.connector.input_dim))
        self.separator = nn.Parameter(torch.zeros(config.connector.input_dim))

    def init_weights(self) -> None:
        """The newline and the separator start at zero, as in the reference."""
        nn.init.zeros_(self.newline)
        nn.init.zeros_(self.separator)

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(crops, 3, h, w) → (crops, P, D) patches of the last layer."""
        return self.vision.features(pixels)[:, 1:]

    def connect(self, features: torch.Tensor, plans: list[ImagePlan] | tuple[ImagePlan, ...]) -> list[torch.Tensor]:
        """Joined and laid out first, connected last: newlines and separator go through the connector as well."""
        side = self.config.vision.grid // JOIN
        joined = rearrange(features, "b (h i w j) d -> b (h w) (i j d)", h=side, w=side, i=JOIN, j=JOIN)
        pieces = joined.split([len(plan.crops) for plan in plans])
        laid = [self.arrange(piece, plan) for piece, plan in zip(pieces, plans, strict=True)]
        return list(self.connector(torch.cat(laid)).split([len(piece) for piece in laid]))

    def arrange(self, tokens: torch.Tensor, plan: ImagePlan) -> torch.Tensor:
        """Global view, separator, tiles as one grid; a newline ends every row.

        Args:
            tokens: (1 + rows·columns, P, 4·D), the global view first.
            plan: its `grid` is (rows, columns) of tiles, its `tokens` (h, w) of one.

        Returns:
            (N, 4·D).
        """
        (rows, columns), (h, w) = plan.grid, plan.tokens
        whole = rearrange(tokens[0], "(h w) d -> h w d", h=h, w=w)
        grid = rearrange(tokens[1:], "(r c) (h w) d -> (r h) (c w) d", r=rows, c=columns, h=h, w=w)
        return torch.cat((self._lines(whole), self.separator.to(tokens.dtype)[None], self._lines(grid)))

    def _lines(self, grid: torch.Tensor) -> torch.Tensor:
        newline = self.newline.to(grid.dtype).expand(len(grid), 1, -1)
        return torch.cat((grid, newline), 1).flatten(0, 1)

    def route(self, batch: Batch) -> torch.Tensor | None:
        """(B, T) bool: every visual token."""
        if not batch.spans:
            return None
        assert batch.input_ids is not None
        route = torch.zeros_like(batch.input_ids, dtype=torch.bool)
        for span in batch.spans:
            route[span.row, span.start : span.stop] = True
        return route


INTERNLM2_7B = PartialLoraDecoderConfig(
    vocab_size=92544, hidden_dim=4096, num_layers=32, num_heads=32, num_kv_heads=8, mlp_dim=14336,
    context_length=32768, norm_eps=1e-5, rotary=RotaryConfig(theta=1e6), rank=256,
)  # fmt: skip
PRESETS = {
    "xcomposer2_4khd_7b": XComposerConfig(
        vision=clip_tower(336),
        connector=MLPConnectorConfig(input_dim=4096, output_dim=4096),
        language=INTERNLM2_7B,
        image_token_id=0,
    )
}


def processor(config: XComposerConfig, parts: Parts) -> Processor:
    """The HD transform, and the global view first."""
    vision, tokens = config.vision, parts.tokenizer
    tiler = HDTransform(side=vision.image_size, max_tiles=config.max_tiles, patch=vision.patch_size * JOIN)
    slot = parts.token(config.image_token_id)
    return Processor(
        tokens,
        ImageProcessor(tiler=tiler),
        template=parts.template or TEMPLATE.replace("SLOT", slot),
        image_token=slot,
        max_length=config.language.context_length,
        settings={"processor_class": "XComposerProcessor", **parts.settings},
    )


def tiny() -> tuple[XComposerConfig, Processor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("chatml")
    language = PartialLoraDecoderConfig(
        vocab_size=len(tokenizer), hidden_dim=48, num_layers=2, num_heads=4, num_kv_heads=2, mlp_dim=64,
        context_length=2048, norm_eps=1e-5, rank=4,
    )  # fmt: skip
    config = XComposerConfig(
        vision=clip_tower(32, patch=4, width=32, layers=2, heads=2),
        connector=MLPConnectorConfig(input_dim=128, output_dim=48),
        language=language,
        image_token_id=tokenizer.token_to_id("<image>") or 0,
        max_tiles=6,
    )
    return config, processor(config, Parts(tokenizer, template=tokenizer.chat_template))


FAMILY: Family = register(
    Family(
        name="xcomposer",
        summary="336-pixel tiles up to 4K, newlines and a separator; partial LoRA for picture tokens in InternLM2",
        paper="Dong et al. 2024, InternLM-XComposer2-4KHD",
        capabilities=("generate", "score"),
        config_type=XComposerConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
