"""InstructBLIP (Dai et al. 2023, "Towards General-purpose Vision-Language Models with Instruction Tuning").

BLIP-2 whose Q-Former also reads the instruction (§2.3): the queries and the instruction's words share self-attention,
so that what is taken from the picture depends on what is asked. Only the queries' states go on, to Vicuna or Flan-T5,
which read the instruction again as their own prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from chiasm.connectors.qformer import QFormer, QFormerConfig, QFormerTextConfig
from chiasm.core.batch import Batch
from chiasm.core.registry import Family, register
from chiasm.fusion.bridge import BridgedLM, BridgedSeq2Seq
from chiasm.language.decoder import DecoderConfig
from chiasm.language.encoder_decoder import EncoderDecoderConfig
from chiasm.models.assembly import Parts, eva_tower, llama, picture_processor
from chiasm.models.languages import flan_t5, opt
from chiasm.processing.instructed import FOLDER, InstructedProcessor
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.resampled import ResampledPictures
from chiasm.processing.tokenizer import Tokenizer
from chiasm.vision.cells import CellTowerConfig
from chiasm.vision.patches import FinalStates
from chiasm.vision.vit import ViTConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class InstructBlipConfig:
    """An InstructBLIP.

    Attributes:
        vision: the picture tower.
        connector: the Q-Former, with its text side and its projection.
        language: Vicuna or Flan-T5.
        image_token_id: id of a picture slot.
        reading: which of the tower's states are read.
    """

    vision: ViTConfig | CellTowerConfig
    connector: QFormerConfig
    language: DecoderConfig | EncoderDecoderConfig
    image_token_id: int
    reading: FinalStates = FinalStates()

    def build(self) -> InstructBlip | InstructBlipSeq2Seq:
        """A model with random weights."""
        return InstructBlipSeq2Seq(self) if isinstance(self.language, EncoderDecoderConfig) else InstructBlip(self)


def told(module: InstructBlip | InstructBlipSeq2Seq, batch: Batch) -> list[torch.Tensor] | None:
    """One (N, D) tensor a picture, each asked with its own row's instruction.

    Args:
        module: whose parts are used.
        batch: as for `SplicedLM.embed`, with `instruction_ids` and `instruction_mask`.
    """
    dtype = module.language.embed_tokens.weight.dtype
    if batch.features is not None:
        features = batch.features.to(dtype)
    elif batch.pixel_values is not None:
        features = module.visual_features(batch.pixel_values.to(dtype))
    else:
        return None
    rows = torch.tensor([span.row for span in batch.spans], dtype=torch.long, device=features.device)
    if batch.instruction_ids is None or len(rows) != len(features):
        return list(module.connector(features))
    mask = None if batch.instruction_mask is None else batch.instruction_mask[rows]
    return list(module.connector(features, batch.instruction_ids[rows], mask))


class InstructBlip(BridgedLM):
    """vision → instructed Q-Former → a decoder."""

    connector: QFormer

    def pictures(self, batch: Batch) -> list[torch.Tensor] | None:
        """One (N, D) tensor a picture; see `told`."""
        return told(self, batch)


class InstructBlipSeq2Seq(BridgedSeq2Seq):
    """vision → instructed Q-Former → an encoder–decoder."""

    connector: QFormer

    def pictures(self, batch: Batch) -> list[torch.Tensor] | None:
        """One (N, D) tensor a picture; see `told`."""
        return told(self, batch)


def _instructblip(language: DecoderConfig | EncoderDecoderConfig, image_token_id: int) -> InstructBlipConfig:
    vision = eva_tower(224)
    text = QFormerTextConfig(vocab_size=30523, context_length=512)
    connector = QFormerConfig(input_dim=vision.hidden_dim, output_dim=language.hidden_dim, text=text)
    return InstructBlipConfig(vision=vision, connector=connector, language=language, image_token_id=image_token_id)


PRESETS = {
    "instructblip_vicuna_7b": _instructblip(llama(32064, 4096, 32, 32, 32, 11008, context=2048, eps=1e-6), 32000),
    "instructblip_vicuna_13b": _instructblip(llama(32064, 5120, 40, 40, 40, 13824, context=2048, eps=1e-6), 32000),
    "instructblip_flan_t5_xl": _instructblip(flan_t5("xl"), 32100),
    "instructblip_flan_t5_xxl": _instructblip(flan_t5("xxl"), 32100),
}


def processor(config: InstructBlipConfig, parts: Parts) -> InstructedProcessor:
    """The whole picture, stretched to the tower's square; the instruction for the Q-Former beside the prompt."""
    assert config.connector.text is not None
    folder = parts.folder
    instructions = tiny_tokenizer("bert") if folder is None else Tokenizer.from_folder(folder / FOLDER)
    pictures = picture_processor(parts, "BlipImageProcessor", config.vision.image_size)
    count = config.connector.num_queries
    return InstructedProcessor(
        parts.tokenizer,
        ResampledPictures.of(pictures, count),
        instructions,
        config.connector.text.context_length,
        template=parts.template,
        image_token=parts.tokenizer.id_to_token(config.image_token_id),
        max_length=config.language.context_length if isinstance(config.language, DecoderConfig) else None,
        settings={"processor_class": "InstructBlipProcessor", "num_query_tokens": count, **parts.settings},
        pictures_first=True,
    )


def tiny(
    language: DecoderConfig | EncoderDecoderConfig | None = None,
) -> tuple[InstructBlipConfig, InstructedProcessor]:
    """A miniature with every part of the real one; over OPT, or over the language model given."""
    tokenizer = tiny_tokenizer("opt")
    language = replace(language or opt(400, 48, 2, 4, context=512), vocab_size=len(tokenizer))
    config = InstructBlipConfig(
        vision=eva_tower(32, patch=8, width=32, layers=2, heads=2, mlp=64),
        connector=QFormerConfig(
            input_dim=32,
            output_dim=language.hidden_dim,
            num_queries=4,
            hidden_dim=24,
            num_layers=2,
            num_heads=2,
            mlp_dim=48,
            text=QFormerTextConfig(vocab_size=len(tiny_tokenizer("bert")), context_length=64),
        ),
        language=language,
        image_token_id=tokenizer.token_to_id("<image>") or 0,
    )
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="instructblip",
        summary="BLIP-2 whose Q-Former reads the instruction, over Vicuna or Flan-T5",
        paper="Dai et al. 2023, InstructBLIP: Towards General-purpose Vision-Language Models with Instruction Tuning",
        capabilities=("generate", "score"),
        config_type=InstructBlipConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
