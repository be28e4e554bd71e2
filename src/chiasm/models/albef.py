"""ALBEF (Li et al. 2021, "Align before Fuse"; architecture in §3.1, downstream tasks in §5 and the appendix).

A ViT, a BERT whose lower half reads text alone and whose upper half attends to the picture. Heads: pretraining
(contrast, matching, masked words), retrieval (the same without words), entailment (three classes on the class token),
pairs (two pictures, each fusion layer doubled, one reading the first and one the second), questions (a decoder of six
layers reads the states of question and picture). Grounding is Grad-CAM on the third fusion layer's attention (§6.2).

Departures: no dropout. The momentum copy belongs to the objective (`objectives.fusion`), not to the model, and is left
behind when an authors' checkpoint is read. The doubled layers' keys and values are two copies, which training may part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.core.batch import Batch
from chiasm.core.registry import Family, register
from chiasm.core.texts import TextStates
from chiasm.fusion.cross_attention import CrossAttentionLM, Reading, Seeing, grad_cam, places
from chiasm.language.bert import Bert, BertConfig, BertHead, CrossConfig
from chiasm.models.assembly import Parts, tower_pictures, vit
from chiasm.nn.fusion_blocks import Context
from chiasm.processing.fusion import FusionProcessor
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.vision.hybrid import HybridConfig
from chiasm.vision.vit import ViTConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretraining:
    """Contrast, matching and masked words.

    Attributes:
        embed_dim: E.
        words: whether masked words are predicted; a retriever's checkpoint has no such head.
    """

    embed_dim: int = 256
    words: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """Classes for a text about one picture, or two.

    Attributes:
        labels: the classes.
        images: pictures a text.
    """

    labels: tuple[str, ...]
    images: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Questions:
    """A decoder that answers.

    Attributes:
        num_layers: of the decoder.
        start_id: what an answer begins with, [CLS].
    """

    num_layers: int
    start_id: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AlbefConfig:
    """An ALBEF.

    Attributes:
        vision: the picture tower.
        language: the text tower; `cross.first_layer` is where fusion begins.
        head: what it is for.
        temperature: what similarities are divided by at first.
    """

    vision: ViTConfig | HybridConfig
    language: BertConfig
    head: Pretraining | Labels | Questions
    temperature: float = 0.07

    @property
    def split(self) -> int:
        """Layers that read text alone."""
        assert self.language.cross is not None
        return self.language.cross.first_layer

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What this checkpoint can do."""
        return ("embed", "classify", "match", "ground") if isinstance(self.head, Pretraining) else ("generate", "score")

    def build(self) -> nn.Module:
        """A model with random weights."""
        if isinstance(self.head, Pretraining):
            return Albef(self)
        return AlbefLabels(self) if isinstance(self.head, Labels) else AlbefQuestions(self)


class _Towers(Seeing):
    """Picture tower and split text tower, which every head stands on."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = config.vision.build()
        self.language: Bert = config.language.build()

    def read_texts(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> TextStates:
        """(B, T) ids and their mask → the texts after the lower half, which sees no picture."""
        x = self.language.embed(ids, places(attend))
        return TextStates(ids, attend, self.language.encode(x, attend, layers=range(self.config.split)))

    def fuse(
        self, texts: TextStates, images: Sequence[torch.Tensor], record: dict[int, list[torch.Tensor]] | None = None
    ) -> torch.Tensor:
        """Read texts with their pictures.

        Args:
            texts: B texts after the lower half.
            images: (B, 1 + P, D) states each; fusion layers take turns among several.
            record: see `Bert.encode`.

        Returns:
            (B, T, D).
        """
        x, contexts = texts.states, [Context(states) for states in images]
        for turn, layer in enumerate(range(self.config.split, self.config.language.num_layers)):
            context = contexts[turn % len(contexts)]
            x = self.language.encode(x, texts.attend, context=context, layers=range(layer, layer + 1), record=record)
        return x


class Albef(_Towers):
    """Contrast, matching, masked words, grounding."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        assert isinstance(config.head, Pretraining)
        width, self.embed_dim = config.language.hidden_dim, config.head.embed_dim
        self.vision_proj = nn.Linear(config.vision.hidden_dim, self.embed_dim)
        self.text_proj = nn.Linear(width, self.embed_dim)
        self.match_head = nn.Linear(width, 2)
        self.word_head = BertHead(config.language) if config.head.words else None
        self.temperature = nn.Parameter(torch.tensor(config.temperature))

    def init_weights(self) -> None:
        """Set the temperature to its first value."""
        nn.init.constant_(self.temperature, self.config.temperature)

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.config.language.vocab_size

    def project_images(self, states: torch.Tensor) -> torch.Tensor:
        """(B, 1 + P, D) states → (B, E), L2-normalised."""
        return F.normalize(self.vision_proj(states[:, 0]), dim=-1)

    def project_texts(self, states: torch.Tensor) -> torch.Tensor:
        """(B, T, D) states → (B, E), L2-normalised."""
        return F.normalize(self.text_proj(states[:, 0]), dim=-1)

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) → (I, E), L2-normalised."""
        return self.project_images(self.encode_images(pixels))

    def embed_texts(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T) → (B, E), L2-normalised."""
        return self.project_texts(self.read_texts(ids, attend).states)

    def logits(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(I, E) and (B, E) embeddings → (I, B) similarities over the temperature."""
        return images @ texts.T * self.similarity_scale

    @property
    def similarity_scale(self) -> torch.Tensor:
        """What similarities are multiplied by."""
        return 1 / self.temperature

    def match_scores(
        self, texts: TextStates, images: torch.Tensor, record: dict[int, list[torch.Tensor]] | None = None
    ) -> torch.Tensor:
        """B texts and (B, 1 + P, D) pictures → (B, 2) scores of "doesn't belong" and "belongs"."""
        return self.match_head(self.fuse(texts, [images], record)[:, 0])

    def match_logits(self, batch: Batch) -> torch.Tensor:
        """(B,) log-odds that each row's picture and text belong together."""
        assert batch.input_ids is not None
        images = self.picture_states(batch)
        scores = self.match_scores(self.read_texts(batch.input_ids, batch.attention_mask), images)
        return scores[:, 1] - scores[:, 0]

    def word_scores(self, ids: torch.Tensor, attend: torch.Tensor | None, images: torch.Tensor) -> torch.Tensor:
        """(B, T) ids, some of them hidden, and (B, 1 + P, D) pictures → (B, T, V) what stands there."""
        assert self.word_head is not None
        states = self.fuse(self.read_texts(ids, attend), [images])
        return self.word_head(states, self.language.token_embed.weight)

    def heat(self, batch: Batch) -> torch.Tensor:
        """(B, rows, columns) Grad-CAM of a match, on the third fusion layer (or the last but one of fewer).

        The last layer shows nothing: only the class token leaves it, so no word's attention there has a gradient.
        """
        assert batch.input_ids is not None
        layer = max(self.config.split, min(self.config.split + 2, self.config.language.num_layers - 2))
        record: dict[int, list[torch.Tensor]] = {layer: []}
        images = self.picture_states(batch).detach().requires_grad_(True)
        texts = self.read_texts(batch.input_ids, batch.attention_mask)
        scores = self.match_scores(texts, images, record)
        (gradient,) = torch.autograd.grad(scores[:, 1].sum(), record[layer][0])
        words = torch.ones_like(batch.input_ids, dtype=torch.bool)
        words = (words if batch.attention_mask is None else batch.attention_mask).clone()
        words[:, 0] = False  # the class token isn't a word
        cam = grad_cam(record[layer][0].detach(), gradient, words)
        return cam.unflatten(1, (self.config.vision.grid, self.config.vision.grid))

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, T, V) logits of masked words; a retriever's (B,) log-odds of a match."""
        if self.word_head is None:
            return self.match_logits(batch)
        assert batch.input_ids is not None
        return self.word_scores(batch.input_ids, batch.attention_mask, self.picture_states(batch))


class AlbefLabels(_Towers):
    """Chooses a class for a text about one picture or two.

    Attributes:
        answers, exclusive: see `core.protocols.Answering`.
    """

    exclusive = True

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        assert isinstance(config.head, Labels)
        self.answers: Sequence[str] = config.head.labels
        self.images = config.head.images
        width = config.language.hidden_dim
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, len(self.answers)))

    def answer_logits(self, batch: Batch) -> torch.Tensor:
        """(B, classes); `pixel_values` holds a row's pictures together.

        Raises:
            PromptError: another number of pictures.
        """
        assert batch.input_ids is not None
        states = self.picture_states(batch, self.images)
        pictures = [states[index :: self.images] for index in range(self.images)]
        return self.head(self.fuse(self.read_texts(batch.input_ids, batch.attention_mask), pictures)[:, 0])

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, classes)."""
        return self.answer_logits(batch)


class AlbefQuestions(_Towers, CrossAttentionLM):
    """Answers questions with a decoder that reads their states."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        assert isinstance(config.head, Questions)
        cross = CrossConfig(context_dim=config.language.hidden_dim)
        self.decoder: Bert = replace(config.language, num_layers=config.head.num_layers, cross=cross).build()
        self.lm_head = BertHead(config.language)

    @property
    def writer(self) -> tuple[Bert, BertHead]:
        """The decoder and its output layer."""
        return self.decoder, self.lm_head

    def read(self, batch: Batch) -> Reading:
        """The states of question and picture, and the answer so far."""
        assert batch.input_ids is not None and batch.source_length is not None
        start, attend = batch.source_length, batch.attention_mask
        asked = None if attend is None else attend[:, :start]
        images = self.picture_states(batch)
        states = self.fuse(self.read_texts(batch.input_ids[:, :start], asked), [images])
        return Reading(states, asked, batch.input_ids[:, start:], None if attend is None else attend[:, start:])


def text(vocab: int = 30522, width: int = 768, layers: int = 12, split: int = 6, vision: int = 768) -> BertConfig:
    """BERT with fusion in its upper layers."""
    return BertConfig(
        vocab_size=vocab,
        context_length=512,
        hidden_dim=width,
        num_layers=layers,
        num_heads=width // 64,
        mlp_dim=4 * width,
        cross=CrossConfig(context_dim=vision, first_layer=split),
    )


def tower(image: int, width: int = 768, layers: int = 12, heads: int = 12, patch: int = 16) -> ViTConfig:
    """DeiT's ViT: a class token, no norm before the blocks."""
    return vit(image, patch, width, layers, heads, 4 * width)


ENTAILMENT = ("contradiction", "neutral", "entailment")
CLS = 101  # of BERT's vocabulary
PRESETS = {
    "albef_b": AlbefConfig(vision=tower(256), language=text(), head=Pretraining()),
    "albef_retrieval_b": AlbefConfig(vision=tower(384), language=text(), head=Pretraining(words=False)),
    "albef_entailment_b": AlbefConfig(vision=tower(384), language=text(), head=Labels(labels=ENTAILMENT)),
    "albef_nlvr2_b": AlbefConfig(
        vision=tower(384), language=text(layers=18), head=Labels(labels=("False", "True"), images=2)
    ),
    "albef_vqa_b": AlbefConfig(vision=tower(384), language=text(), head=Questions(num_layers=6, start_id=CLS)),
}


def processor(config: AlbefConfig, parts: Parts) -> FusionProcessor:
    """Stretch to the exact size; questions stand before their answers."""
    asks = isinstance(config.head, Questions)
    return FusionProcessor(
        parts.tokenizer,
        tower_pictures(parts, "BlipImageProcessor", config.vision, patch=config.vision.patch_size),
        config.language.context_length,
        start_id=config.head.start_id if isinstance(config.head, Questions) else None,
        asks=asks,
        max_images=config.head.images if isinstance(config.head, Labels) else 1,
        settings=parts.settings,
    )


def tiny(head: Pretraining | Labels | Questions | None = None) -> tuple[AlbefConfig, FusionProcessor]:
    """A miniature under any head; by default the pretrained form."""
    tokenizer = tiny_tokenizer("bert")
    layers = 6 if isinstance(head, Labels) and head.images > 1 else 4
    language = text(len(tokenizer), 32, layers, 2, 48)
    config = AlbefConfig(
        vision=replace(tower(32, 48, 2, 2, 8), mlp_dim=64),
        language=replace(language, num_heads=2, mlp_dim=64, context_length=64),
        head=head or Pretraining(embed_dim=16),
    )
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="albef",
        summary="align before fuse: split BERT, contrast with a momentum copy, matching, grounding without boxes",
        paper="Li et al. 2021, Align before Fuse: Representation Learning with Momentum Distillation",
        capabilities=("embed", "classify", "match", "generate", "score", "ground"),
        config_type=AlbefConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
