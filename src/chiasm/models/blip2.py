"""BLIP-2, second stage (Li et al. 2023, "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders
and Large Language Models", §3.3).

EVA's ViT-g, all of its final states normalised, a Q-Former whose 32 queries are projected to the language model's
width, and a frozen OPT (decoder) or Flan-T5 (encoder–decoder). The picture's tokens stand before everything, the
beginning-of-text token included. The first stage, which makes the Q-Former, is `blip2_retrieval`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from chiasm.connectors.choice import Connector
from chiasm.connectors.qformer import QFormerConfig
from chiasm.core.registry import Family, register
from chiasm.fusion.bridge import BridgedLM, BridgedSeq2Seq, build_bridge, crop_tokens
from chiasm.language.decoder import DecoderConfig
from chiasm.language.encoder_decoder import EncoderDecoderConfig
from chiasm.models.assembly import Parts, eva_tower, picture_processor
from chiasm.models.languages import flan_t5, opt
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import Processor
from chiasm.processing.resampled import ResampledPictures
from chiasm.vision.cells import CellTowerConfig
from chiasm.vision.patches import FinalStates, PatchSelection
from chiasm.vision.vit import ViTConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Blip2Config:
    """A BLIP-2.

    Attributes:
        vision: the picture tower.
        connector: the Q-Former with its projection; any other connector fits as well.
        language: OPT or Flan-T5; any other language model fits as well.
        image_token_id: id of a picture slot.
        reading: which of the tower's states are read.
        joint_dim: E of the first stage, which published configurations keep beside the second.
    """

    vision: ViTConfig | CellTowerConfig
    connector: Connector
    language: DecoderConfig | EncoderDecoderConfig
    image_token_id: int
    reading: FinalStates | PatchSelection = FinalStates()
    joint_dim: int = 256

    def build(self) -> BridgedLM | BridgedSeq2Seq:
        """A model with random weights."""
        return build_bridge(self)


def _blip2(language: DecoderConfig | EncoderDecoderConfig, image_token_id: int) -> Blip2Config:
    vision = eva_tower(224)
    connector = QFormerConfig(input_dim=vision.hidden_dim, output_dim=language.hidden_dim)
    return Blip2Config(vision=vision, connector=connector, language=language, image_token_id=image_token_id)


# the published tokenizers have `<image>` after their last word: OPT's table ends at 50272 and has room for it
PRESETS = {
    "blip2_opt_2_7b": _blip2(opt(50304, 2560, 32, 32), 50265),
    "blip2_opt_6_7b": _blip2(opt(50304, 4096, 32, 32), 50265),
    "blip2_flan_t5_xl": _blip2(flan_t5("xl"), 32100),
    "blip2_flan_t5_xxl": _blip2(flan_t5("xxl"), 32100),
}


def processor(config: Blip2Config, parts: Parts) -> Processor:
    """The whole picture, stretched to the tower's square; `num_query_tokens` in its slot."""
    count = crop_tokens(config)
    pictures = picture_processor(parts, "BlipImageProcessor", config.vision.image_size)
    context = config.language.context_length if isinstance(config.language, DecoderConfig) else None
    return Processor(
        parts.tokenizer,
        ResampledPictures.of(pictures, count),
        template=parts.template,
        image_token=parts.tokenizer.id_to_token(config.image_token_id),
        max_length=context,
        settings={"processor_class": "Blip2Processor", "num_query_tokens": count, **parts.settings},
        pictures_first=True,
    )


def tiny(language: DecoderConfig | EncoderDecoderConfig | None = None) -> tuple[Blip2Config, Processor]:
    """A miniature with every part of the real one; over OPT, or over the language model given."""
    tokenizer = tiny_tokenizer("opt")
    language = language or opt(len(tokenizer), 48, 2, 4, context=512)
    language = replace(language, vocab_size=len(tokenizer))
    vision = eva_tower(32, patch=8, width=32, layers=2, heads=2, mlp=64)
    connector = QFormerConfig(
        input_dim=32,
        output_dim=language.hidden_dim,
        num_queries=4,
        hidden_dim=24,
        num_layers=2,
        num_heads=2,
        mlp_dim=48,
    )
    slot = tokenizer.token_to_id("<image>") or 0
    config = Blip2Config(vision=vision, connector=connector, language=language, image_token_id=slot)
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="blip2",
        summary="EVA's ViT through a Q-Former into a frozen OPT or Flan-T5",
        paper="Li et al. 2023, BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and LLMs",
        capabilities=("generate", "score"),
        config_type=Blip2Config,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
