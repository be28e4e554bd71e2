"""ViLT (Kim et al. 2021, "ViLT: Vision-and-Language Transformer Without Convolution or Region Supervision").

Words and patches side by side in one pre-norm transformer (§3.1), under one of several heads: pretraining (matching
and masked words, §3.2), masked words alone, answers (VQA), pairs of pictures (NLVR2), ranking (retrieval), tags.

Departures: no dropout; patches are drawn at random in training only, where `max_patches` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from chiasm.core.batch import Batch
from chiasm.core.registry import Family, register
from chiasm.fusion.cross_attention import pictures_of
from chiasm.fusion.single_stream import CellEmbedding, SingleStream, SingleStreamConfig
from chiasm.language.bert import BertHead
from chiasm.models.assembly import Parts, lite_pictures
from chiasm.nn.transport import cosine_cost, transport_plan
from chiasm.processing.fusion import FusionProcessor
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.padded import PaddedImageProcessor


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretraining:
    """Matching (two classes), masked words, and where words are, by optimal transport."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Masked words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """One score of picture and text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Answers, each with a probability of its own.

    Attributes:
        labels: the answers.
    """

    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """A statement about several pictures, each read with the text by itself.

    Attributes:
        labels: what can be said of it.
        images: how many pictures.
    """

    labels: tuple[str, ...]
    images: int = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Tags:
    """A class for every word.

    Attributes:
        labels: the classes.
    """

    labels: tuple[str, ...]


Head = Pretraining | Words | Ranking | Answers | Pairs | Tags


@dataclass(frozen=True, kw_only=True, slots=True)
class ViltConfig:
    """A ViLT.

    Attributes:
        stream: the transformer.
        head: what it is for.
    """

    stream: SingleStreamConfig
    head: Pretraining | Words | Ranking | Answers | Pairs | Tags

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What this checkpoint can do."""
        if isinstance(self.head, Pretraining):
            return ("match", "ground")
        if isinstance(self.head, (Answers, Pairs)):
            return ("generate", "score")
        return ("match",) if isinstance(self.head, Ranking) else ()

    def build(self) -> Vilt:
        """A model with random weights."""
        kinds: dict[type, type[Vilt]] = {Answers: ViltAnswers, Pairs: ViltAnswers, Ranking: ViltMatcher}
        return kinds.get(type(self.head), ViltPretrainer if isinstance(self.head, Pretraining) else Vilt)(self)


class Vilt(nn.Module):
    """The transformer under any head; `forward` gives the head's scores."""

    def __init__(self, config: ViltConfig) -> None:
        super().__init__()
        self.config = config
        width, head = config.stream.hidden_dim, config.head
        self.stream: SingleStream = config.stream.build()
        self.pooler = None if isinstance(head, Tags) else nn.Linear(width, width)
        self.word_head = BertHead(config.stream) if isinstance(head, (Pretraining, Words)) else None
        self.head: nn.Module | None = None
        if isinstance(head, Pretraining):
            self.head = nn.Linear(width, 2)
        elif isinstance(head, Ranking):
            self.head = nn.Linear(width, 1)
        elif isinstance(head, Tags):
            self.head = nn.Linear(width, len(head.labels))
        elif isinstance(head, Answers):
            self.head = _classifier(width, 2 * width, len(head.labels))
        elif isinstance(head, Pairs):
            self.head = _classifier(head.images * width, head.images * width, len(head.labels))

    @property
    def vision(self) -> nn.Module:
        """What turns a picture into tokens of the stream."""
        return self.stream.vision

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) pixels → what the stream embeds: the cells of a trunk, else the pixels themselves."""
        embed = self.stream.vision
        return embed.trunk.features(pixels) if isinstance(embed, CellEmbedding) else pixels

    def states(self, batch: Batch, modality: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Words, patches and which patches are real, of a batch with one picture a text; see `SingleStream`.

        Raises:
            PromptError: another number of pictures.
        """
        assert batch.input_ids is not None
        pictures = pictures_of(batch)
        pictures = self.visual_features(pictures) if batch.features is None else pictures
        grids = [plan.tokens for plan in batch.plans] or None
        words, patches, real = self.stream(batch.input_ids, batch.attention_mask, pictures, grids, modality)
        return words, patches, real

    def pool(self, words: torch.Tensor) -> torch.Tensor:
        """(B, T, D) words → (B, D), the class token's state through a tanh layer."""
        assert self.pooler is not None
        return torch.tanh(self.pooler(words[:, 0]))

    def word_scores(self, words: torch.Tensor) -> torch.Tensor:
        """(B, T, D) words → (B, T, V) logits of what stands there."""
        assert self.word_head is not None
        return self.word_head(words, self.stream.language.token_embed.weight)

    def forward(self, batch: Batch) -> torch.Tensor:
        """The head's scores: (B, T, V) words, (B, T, classes) tags, or what a subclass says."""
        words, _, _ = self.states(batch)
        return self.word_scores(words) if self.head is None else self.head(words)


class ViltMatcher(Vilt):
    """Ranks pictures and texts."""

    def match_logits(self, batch: Batch) -> torch.Tensor:
        """(B,) log-odds that each row's picture and text belong together."""
        assert self.head is not None
        return self.head(self.pool(self.states(batch)[0]))[:, 0]

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B,) log-odds."""
        return self.match_logits(batch)


class ViltPretrainer(Vilt):
    """Matching, masked words, and words laid on patches."""

    def match_scores(self, words: torch.Tensor) -> torch.Tensor:
        """(B, T, D) words → (B, 2) scores of "doesn't belong" and "belongs"."""
        assert self.head is not None
        return self.head(self.pool(words))

    def match_logits(self, batch: Batch) -> torch.Tensor:
        """(B,) log-odds that each row's picture and text belong together."""
        scores = self.match_scores(self.states(batch)[0])
        return scores[:, 1] - scores[:, 0]

    def heat(self, batch: Batch) -> torch.Tensor:
        """(B, rows, columns) how much of the words' mass the cheapest transport lays on each patch (§4.5)."""
        assert batch.input_ids is not None
        words, patches, real = self.states(batch)
        counted = torch.ones_like(batch.input_ids, dtype=torch.bool)
        counted = counted if batch.attention_mask is None else batch.attention_mask
        inner = counted & counted.roll(-1, 1)  # the last real token ends the text and is no word
        inner[:, 0] = False
        inner[:, -1] = False
        cost = cosine_cost(words, patches[:, 1:])
        plan = transport_plan(cost, torch.where(inner.any(1, keepdim=True), inner, counted), real[:, 1:])
        # every patch gets its share in the end; what tells them apart is how cheaply it gets there
        kept = (plan * (-cost).exp()).sum(1)
        side = self.config.stream.grid
        grids = [(side, side)] if self.config.stream.trunk else [plan.tokens for plan in batch.plans]
        return kept.unflatten(1, (max(rows for rows, _ in grids), max(columns for _, columns in grids)))

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, T, V) logits of masked words."""
        return self.word_scores(self.states(batch)[0])


class ViltAnswers(Vilt):
    """Chooses among known answers, about one picture or several.

    Attributes:
        answers, exclusive: see `core.protocols.Answering`.
    """

    def __init__(self, config: ViltConfig) -> None:
        super().__init__(config)
        assert isinstance(config.head, (Answers, Pairs))
        self.answers: Sequence[str] = config.head.labels
        self.exclusive = isinstance(config.head, Pairs)
        self.images = config.head.images if isinstance(config.head, Pairs) else 1

    def answer_logits(self, batch: Batch) -> torch.Tensor:
        """(B, A) score of every answer.

        Args:
            batch: `pixel_values` (B · images, 3, h, w), a row's pictures together.

        Raises:
            PromptError: another number of pictures.
        """
        assert batch.input_ids is not None and self.head is not None
        pictures, stored = pictures_of(batch, self.images), batch.features is not None
        pooled = []
        for index in range(self.images):
            one = slice(index, None, self.images)
            given: dict[str, Any] = {"features" if stored else "pixel_values": pictures[one]}
            part = replace(batch, plans=tuple(batch.plans[one]), **given)
            pooled.append(self.pool(self.states(part, modality=1 + index)[0]))
        return self.head(torch.cat(pooled, -1))

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, A) score of every answer."""
        return self.answer_logits(batch)


def _classifier(inputs: int, hidden: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, classes))


def _stream(**changes: Any) -> SingleStreamConfig:
    shape: dict[str, Any] = {
        "vocab_size": 30522,
        "context_length": 40,
        "image_size": 384,
        "patch_size": 32,
        "hidden_dim": 768,
        "num_layers": 12,
        "num_heads": 12,
        "mlp_dim": 3072,
    }
    return SingleStreamConfig(**{**shape, **changes})


VQA_ANSWERS = 3129  # of VQAv2's training set, those given at least nine times
PRESETS = {
    "vilt_b_32": ViltConfig(stream=_stream(max_patches=200), head=Pretraining()),
    "vilt_b_32_words": ViltConfig(stream=_stream(), head=Words()),
    "vilt_b_32_vqa": ViltConfig(
        stream=_stream(), head=Answers(labels=tuple(f"LABEL_{number}" for number in range(VQA_ANSWERS)))
    ),
    "vilt_b_32_nlvr2": ViltConfig(stream=_stream(num_modalities=3), head=Pairs(labels=("False", "True"))),
    "vilt_b_32_retrieval": ViltConfig(stream=_stream(), head=Ranking()),
}


def processor(config: ViltConfig, parts: Parts) -> FusionProcessor:
    """Pictures whole and in their own shape; one picture a text, or as many as the head reads."""
    stream = config.stream
    images = config.head.images if isinstance(config.head, Pairs) else 1
    if stream.trunk is not None:
        lite = lite_pictures(stream.image_size)
        return FusionProcessor(parts.tokenizer, lite, stream.context_length, max_images=images, settings=parts.settings)
    own = {"size": {"shortest_edge": stream.image_size}, "size_divisor": stream.patch_size}
    settings = parts.pictures or {"image_processor_type": "ViltImageProcessor", **own}
    pictures = PaddedImageProcessor.from_config(settings, patch=stream.patch_size)
    return FusionProcessor(
        parts.tokenizer,
        pictures,
        stream.context_length,
        max_images=images,
        settings=parts.settings,
    )


def tiny(head: Head | None = None) -> tuple[ViltConfig, FusionProcessor]:
    """A miniature under any head; by default the pretrained form."""
    tokenizer = tiny_tokenizer("bert")
    stream = _stream(
        vocab_size=len(tokenizer),
        image_size=32,
        patch_size=8,
        hidden_dim=32,
        num_layers=2,
        num_heads=2,
        mlp_dim=64,
        num_modalities=3,
    )
    config = ViltConfig(stream=stream, head=head or Pretraining())
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="vilt",
        summary="words and patches side by side in one transformer; matching, answers, pairs of pictures",
        paper="Kim et al. 2021, ViLT: Vision-and-Language Transformer Without Convolution or Region Supervision",
        capabilities=("match", "generate", "score", "ground"),
        config_type=ViltConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
