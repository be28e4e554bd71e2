"""Kosmos-1 and Kosmos-2 (Huang et al. 2023, "Language Is Not All You Need"; Peng et al. 2023, "Kosmos-2: Grounding
Multimodal Large Language Models to the World").

CLIP's ViT-L/14, all final states normalised and brought to length 1, one attention of 64 latents, and a Magneto decoder
(norms inside attention and MLP, embeddings times √D) with a picture between `<image>` and `</image>`. Kosmos-1's
positions are xPos, Kosmos-2's are sines and cosines, as in its published weights. Kosmos-2 writes where things are as
`<object><patch_index_0044><patch_index_0863></object>`: the bins of a 32×32 grid that hold a box's corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from chiasm.connectors.choice import Connector
from chiasm.connectors.cross_attention_resampler import LatentAttentionConfig
from chiasm.core.registry import Family, register
from chiasm.fusion.bridge import BridgedLM, crop_tokens
from chiasm.language.decoder import DecoderConfig
from chiasm.models.assembly import Parts, clip_tower, picture_processor
from chiasm.models.languages import magneto
from chiasm.nn.additive_positions import SinusoidPositionsConfig
from chiasm.nn.positions import XPosConfig
from chiasm.processing.coordinates import PatchBoxes
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import Processor
from chiasm.processing.resampled import ResampledPictures
from chiasm.vision.cells import CellTowerConfig
from chiasm.vision.patches import FinalStates
from chiasm.vision.vit import ViTConfig

WRAP = ("<image>", "</image>")
SLOT = "<picture>"  # what stands for a visual token; published tokenizers use words that a picture never reads


GRID = 32  # patches along one side, which places are told by
PLACES = tuple(f"<patch_index_{index:04d}>" for index in range(GRID**2))
TAGS = ("<grounding>", "<phrase>", "</phrase>", "<object>", "</object>", "</delimiter_of_multi_objects/>")
WHERE = """\
{%- for part in messages[0].content -%}
{%- if part.type == 'image' -%}<slot>{%- else -%}<grounding><phrase>{{ ' ' + part.text }}</phrase>{%- endif -%}
{%- endfor -%}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class KosmosConfig:
    """A Kosmos.

    Attributes:
        vision: CLIP's tower.
        connector: the latents' attention; any other connector fits as well.
        language: Magneto.
        image_token_id: id of a picture slot.
        reading: which of the tower's states are features.
    """

    vision: ViTConfig | CellTowerConfig
    connector: Connector
    language: DecoderConfig
    image_token_id: int
    reading: FinalStates = FinalStates()

    def build(self) -> Kosmos:
        """A model with random weights."""
        return Kosmos(self)


class Kosmos(BridgedLM):
    """vision → latents → Magneto."""

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(crops, 3, h, w) → (crops, 1 + P, D) final states, each of length 1."""
        return F.normalize(self.config.reading.read(self.vision, pixels), dim=-1)


def _kosmos(vocab: int, slot: int, **positions: Any) -> KosmosConfig:
    vision = clip_tower(224)
    language = magneto(vocab, 2048, 24, 32, mlp=8192, context=2048, **positions)
    connector = LatentAttentionConfig(input_dim=vision.hidden_dim, output_dim=language.hidden_dim)
    return KosmosConfig(vision=vision, connector=connector, language=language, image_token_id=slot)


PRESETS = {
    "kosmos_1": _kosmos(64007, 4, rotary=XPosConfig()),
    "kosmos_2": _kosmos(65037, 4, positions=SinusoidPositionsConfig(offset=2)),
}


def processor(config: KosmosConfig, parts: Parts) -> Processor:
    """Centre crop; the picture's latents stand between its begin and end tokens."""
    pictures = picture_processor(parts, "CLIPImageProcessor", config.vision.image_size)
    return Processor(
        parts.tokenizer,
        ResampledPictures.of(pictures, crop_tokens(config)),
        template=parts.template,
        image_token=parts.tokenizer.id_to_token(config.image_token_id),
        max_length=config.language.context_length,
        settings=parts.settings,
        wrap=WRAP if all(parts.tokenizer.token_to_id(token) is not None for token in WRAP) else None,
    )


def tiny() -> tuple[KosmosConfig, Processor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("opt", image_token=SLOT, controls=(*WRAP, *TAGS, *PLACES))
    language = magneto(len(tokenizer), 48, 2, 4, mlp=96, context=512, positions=SinusoidPositionsConfig(offset=2))
    config = KosmosConfig(
        vision=clip_tower(32, patch=8, width=32, layers=2, heads=2, mlp=64),
        connector=LatentAttentionConfig(input_dim=32, output_dim=48, num_latents=4, num_heads=4),
        language=language,
        image_token_id=tokenizer.token_to_id(SLOT) or 0,
    )
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="kosmos",
        summary="CLIP's states through one attention of latents into a Magneto decoder; Kosmos-2 writes boxes as words",
        paper="Huang et al. 2023, Language Is Not All You Need; Peng et al. 2023, Kosmos-2",
        capabilities=("generate", "score", "ground"),
        config_type=KosmosConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
        places=PatchBoxes(question="Where is {phrase}?", template=WHERE, grid=GRID),
    )
)
