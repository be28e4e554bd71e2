"""BLIP-2, first stage (Li et al. 2023, §3.2): the Q-Former learns to speak of pictures, with no language model yet.

One Q-Former in three modes that differ in their self-attention mask alone (fig. 2). Contrast: queries and text apart; a
pair is as similar as its best query. Matching: all see all; the queries' scores are averaged. Captioning: the text sees
the queries and its own past. The published retrieval form has no output layer for captions; a checkpoint of the first
stage has one, tied to the word embeddings.

A picture's embedding is its queries' vectors in a row, each of length 1/√Q, so that the whole has length 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.connectors.qformer import QFormer, QFormerConfig, QFormerTextConfig
from chiasm.core.batch import Batch
from chiasm.core.registry import Family, register
from chiasm.language.bert import BertHead
from chiasm.models.assembly import Parts, eva_tower, picture_processor
from chiasm.processing.fusion import FusionProcessor
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.vision.cells import CellTower, CellTowerConfig
from chiasm.vision.patches import FinalStates
from chiasm.vision.vit import ViT, ViTConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Blip2RetrievalConfig:
    """A first-stage BLIP-2.

    Attributes:
        vision: the picture tower.
        connector: the Q-Former, with its text side and without a projection.
        embed_dim: E of the contrastive space.
        start_id: the id that captions begin with, [DEC].
        captions: the checkpoint has the output layer for captions and the similarity's temperature.
        temperature: what similarities are divided by at first, where it is learned.
        reading: which of the tower's states are read.
    """

    vision: ViTConfig | CellTowerConfig
    connector: QFormerConfig
    embed_dim: int = 256
    start_id: int = 30522
    captions: bool = False
    temperature: float = 0.07
    reading: FinalStates = FinalStates()

    def build(self) -> Blip2Retrieval:
        """A model with random weights."""
        return Blip2Retrieval(self)


@dataclass(frozen=True, slots=True)
class _Words:
    """What an output layer needs to know of the Q-Former's text side."""

    vocab_size: int
    hidden_dim: int
    norm_eps: float
    act: str


class Blip2Retrieval(nn.Module):
    """Pictures and texts: contrast, matching, and in the first stage captions."""

    vision: ViT | CellTower
    connector: QFormer
    plain_reading: ClassVar[bool] = True  # `visual_features` is what `reading` says, for the store of features

    def __init__(self, config: Blip2RetrievalConfig) -> None:
        super().__init__()
        self.config = config
        self.vision, self.connector = config.vision.build(), config.connector.build()
        shape = config.connector
        assert shape.text is not None and shape.output_dim is None
        self.vision_proj = nn.Linear(shape.hidden_dim, config.embed_dim)
        self.text_proj = nn.Linear(shape.hidden_dim, config.embed_dim)
        self.match_head = nn.Linear(shape.hidden_dim, 2)
        words = _Words(shape.text.vocab_size, shape.hidden_dim, shape.norm_eps, shape.act)
        self.lm_head = BertHead(words) if config.captions else None
        self.temperature = nn.Parameter(torch.tensor(config.temperature)) if config.captions else None

    def init_weights(self) -> None:
        """Start the temperature where the configuration says."""
        if self.temperature is not None:
            nn.init.constant_(self.temperature, self.config.temperature)

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) pixels → (I, P, D) features of the frozen tower."""
        return self.config.reading.read(self.vision, pixels)

    def project_images(self, features: torch.Tensor) -> torch.Tensor:
        """(I, P, D) features → (I, Q, E), each query's vector L2-normalised."""
        queries, _ = self.connector.states(features)
        return F.normalize(self.vision_proj(queries), dim=-1)

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) → (I, Q·E), L2-normalised."""
        vectors = self.project_images(self.visual_features(pixels))
        return vectors.flatten(1) * self.config.connector.num_queries**-0.5

    def embed_texts(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T) → (B, E), L2-normalised."""
        _, states = self.connector.states(None, ids, attend)
        return F.normalize(self.text_proj(states[:, 0]), dim=-1)

    def logits(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(I, Q·E) and (B, E) embeddings → (I, B) similarity of the best query, not scaled but by what is learned."""
        queries = self.config.connector.num_queries
        vectors = images.unflatten(1, (queries, -1)) * queries**0.5
        best = (vectors @ texts.T).amax(1)
        return best * self.similarity_scale

    @property
    def similarity_scale(self) -> torch.Tensor:
        """What similarities are multiplied by: 1 where it isn't learned."""
        return (
            torch.ones((), device=self.match_head.weight.device) if self.temperature is None else 1 / self.temperature
        )

    def bound_scale(self) -> None:
        """Keep the temperature in the range that published training allows."""
        if self.temperature is not None:
            with torch.no_grad():
                self.temperature.clamp_(0.001, 0.5)

    def match_scores(self, features: torch.Tensor, ids: torch.Tensor, attend: torch.Tensor | None) -> torch.Tensor:
        """(B, 2) scores of "doesn't belong" and "belongs", for (B, P, D) features and (B, T) texts."""
        queries, _ = self.connector.states(features, ids, attend)
        return self.match_head(queries).mean(1)

    def match_logits(self, batch: Batch) -> torch.Tensor:
        """(B,) log-odds that each row's picture and text belong together."""
        assert batch.input_ids is not None
        features = batch.features_by(self.visual_features)
        scores = self.match_scores(features, batch.input_ids, batch.attention_mask)
        return scores[:, 1] - scores[:, 0]

    def caption_logits(self, features: torch.Tensor, ids: torch.Tensor, attend: torch.Tensor | None) -> torch.Tensor:
        """(B, T, V) scores of the next word, the first id being replaced by [DEC].

        Args:
            features: (B, P, D) of the pictures.
            ids: (B, T) captions with the tokens that surround them.
            attend: (B, T) bool.
        """
        assert self.lm_head is not None and self.connector.token_embed is not None
        ids = torch.cat((torch.full_like(ids[:, :1], self.config.start_id), ids[:, 1:]), 1)
        _, states = self.connector.states(features, ids, attend, kind="causal")
        return self.lm_head(states, self.connector.token_embed.weight)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Everything the heads say of a batch of pairs, in a row: (B, 2) matching, then (B·T·V) captions."""
        assert batch.pixel_values is not None and batch.input_ids is not None
        features = self.visual_features(batch.pixel_values)
        parts = [self.match_scores(features, batch.input_ids, batch.attention_mask).flatten()]
        if self.lm_head is not None:
            parts.append(self.caption_logits(features, batch.input_ids, batch.attention_mask).flatten())
        return torch.cat(parts)


def _retrieval(vision: ViTConfig, vocab: int = 30523, *, captions: bool = False) -> Blip2RetrievalConfig:
    text = QFormerTextConfig(vocab_size=vocab, context_length=512)
    connector = QFormerConfig(input_dim=vision.hidden_dim, output_dim=None, text=text)
    return Blip2RetrievalConfig(vision=vision, connector=connector, captions=captions)


PRESETS = {
    "blip2_itm_vit_g": _retrieval(eva_tower(224)),
    "blip2_itm_vit_g_coco": _retrieval(eva_tower(364)),
    "blip2_stage1_vit_g": _retrieval(eva_tower(224), captions=True),
}


def processor(config: Blip2RetrievalConfig, parts: Parts) -> FusionProcessor:
    """Texts of BERT's tokenizer, pictures stretched to the tower's square."""
    assert config.connector.text is not None
    pictures = picture_processor(parts, "BlipImageProcessor", config.vision.image_size)
    return FusionProcessor(
        parts.tokenizer,
        pictures,
        config.connector.text.context_length,
        settings={"processor_class": "Blip2Processor", **parts.settings},
    )


def tiny() -> tuple[Blip2RetrievalConfig, FusionProcessor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("bert")
    text = QFormerTextConfig(vocab_size=len(tokenizer) + 1, context_length=64)
    config = Blip2RetrievalConfig(
        vision=eva_tower(32, patch=8, width=32, layers=2, heads=2, mlp=64),
        connector=QFormerConfig(
            input_dim=32,
            output_dim=None,
            num_queries=4,
            hidden_dim=24,
            num_layers=2,
            num_heads=2,
            mlp_dim=48,
            text=text,
        ),
        embed_dim=16,
        start_id=len(tokenizer),
        captions=True,
    )
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="blip2_retrieval",
        summary="BLIP-2's first stage: a Q-Former between pictures and texts, for contrast, matching and captions",
        paper="Li et al. 2023, BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and LLMs",
        capabilities=("embed", "classify", "match"),
        config_type=Blip2RetrievalConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
