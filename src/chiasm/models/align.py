"""ALIGN (Jia et al. 2021, "Scaling Up Visual and Vision-Language Representation Learning With Noisy Text Supervision").

An EfficientNet read after its last stage, a BERT read at [CLS] and projected to the same width, cosine similarity over
a learned temperature (§4.1); InfoNCE with smoothed labels. The released checkpoint pairs EfficientNet-B7 and BERT-base;
the paper's largest pairs L2 with BERT-large.

Strided convolutions are padded as the checkpoint's port pads them (`EfficientNetConfig.fixed_padding`). BERT's own
pooler is carried along and not read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.core.batch import Batch
from chiasm.core.registry import Family, register
from chiasm.language.bert import Bert, BertConfig
from chiasm.models.assembly import Parts, lite_pictures
from chiasm.processing.image_processor import ImageProcessor
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import DualProcessor
from chiasm.vision.cells import CellTower, CellTowerConfig, Standardised
from chiasm.vision.efficientnet import EFFICIENTNET, EfficientNet, EfficientNetConfig, efficientnet

CONTEXT = 64  # tokens that the published processor cuts at
INPUT_PIXELS = 289


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignConfig:
    """An ALIGN; the joint space is the picture tower's own.

    Attributes:
        vision, language: the towers.
        init_temperature: what similarities are divided by at first.
    """

    vision: EfficientNetConfig | CellTowerConfig
    language: BertConfig
    init_temperature: float = 1.0

    @property
    def unread(self) -> tuple[str, ...]:
        """Prefixes of weights that the published files hold and nothing reads."""
        return ("language.pooler.",)

    def build(self) -> Align:
        return Align(self)


class Align(nn.Module):
    """Pictures and texts in one space."""

    def __init__(self, config: AlignConfig) -> None:
        super().__init__()
        self.config = config
        self.vision: EfficientNet | CellTower = config.vision.build()
        self.language: Bert = config.language.build()
        self.standard = Standardised(config.vision) if isinstance(config.vision, CellTowerConfig) else None
        self.text_proj = nn.Linear(config.language.hidden_dim, config.vision.output_dim)
        self.temperature = nn.Parameter(torch.tensor(config.init_temperature))

    def init_weights(self) -> None:
        """Set the temperature to its first value."""
        nn.init.constant_(self.temperature, self.config.init_temperature)

    @property
    def logit_scale(self) -> torch.Tensor:
        """Logarithm of the similarity's factor, as contrastive objectives read it."""
        return -self.temperature.log()

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) pixels → (I, E) of the tower, or (I, P, E) of a frozen network's cells."""
        return self.vision.features(pixels) if isinstance(self.vision, CellTower) else self.vision(pixels)

    def embed_features(self, features: torch.Tensor) -> torch.Tensor:
        """(I, E) of `visual_features`, or (I, P, E) cells whose standardised mean counts → (I, E), L2-normalised."""
        return F.normalize(features if self.standard is None else self.standard(features).mean(1), dim=-1)

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) pixels → (I, E), L2-normalised."""
        return self.embed_features(self.visual_features(pixels))

    def embed_texts(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T) ids and their mask → (B, E), L2-normalised."""
        return F.normalize(self.text_proj(self.language.states(ids, attend)[:, 0]), dim=-1)

    def logits(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(I, E) and (B, E) embeddings → (I, B) similarities over the temperature."""
        return images @ texts.T / self.temperature

    def forward(self, batch: Batch) -> torch.Tensor:
        """(I, B) similarities of a batch's pictures and texts."""
        assert batch.pixel_values is not None and batch.input_ids is not None
        images = self.embed_images(batch.pixel_values)
        return self.logits(images, self.embed_texts(batch.input_ids, batch.attention_mask))


def _bert(width: int, layers: int, vocab: int = 30522) -> BertConfig:
    return BertConfig(
        vocab_size=vocab,
        context_length=512,
        hidden_dim=width,
        num_layers=layers,
        num_heads=width // 64,
        mlp_dim=4 * width,
        pooler=True,
    )


PRESETS = {
    "align_b7": AlignConfig(
        vision=replace(EFFICIENTNET["efficientnet_b7"], head=False, fixed_padding=True), language=_bert(768, 12)
    ),
    "align_l2": AlignConfig(
        vision=efficientnet(800, 4.3, 5.3, 5504, head=False, fixed_padding=True), language=_bert(1024, 24)
    ),
}


def processor(config: AlignConfig, parts: Parts) -> DualProcessor:
    """Stretch, crop the middle, scale to ±1; texts of at most 64 tokens."""
    if isinstance(config.vision, CellTowerConfig):
        own = lite_pictures(config.vision.image_size)
        return DualProcessor(parts.tokenizer, own, CONTEXT, settings=parts.settings)
    side = {"height": INPUT_PIXELS, "width": INPUT_PIXELS}
    settings = parts.pictures or {"crop_size": side, "do_center_crop": True, "include_top": False}
    pictures = ImageProcessor.from_config({"image_processor_type": "EfficientNetImageProcessor", **settings})
    return DualProcessor(parts.tokenizer, pictures, CONTEXT, settings=parts.settings)


def tiny() -> tuple[AlignConfig, DualProcessor]:
    """A miniature with every part of the published one."""
    tokenizer = tiny_tokenizer("bert")
    config = AlignConfig(
        vision=efficientnet(64, 0.25, 0.4, 64, head=False, fixed_padding=True),
        language=replace(_bert(32, 2, len(tokenizer)), num_heads=2, mlp_dim=64, context_length=CONTEXT),
    )
    side = {"height": 64, "width": 64}
    pictures = {"image_processor_type": "EfficientNetImageProcessor", "size": side, "include_top": False}
    return config, processor(config, Parts(tokenizer, pictures))


FAMILY: Family = register(
    Family(
        name="align",
        summary="EfficientNet and BERT, contrasted on noisy web texts",
        paper="Jia et al. 2021, Scaling Up Visual and Vision-Language Representation Learning With Noisy Text",
        capabilities=("embed", "classify"),
        config_type=AlignConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
