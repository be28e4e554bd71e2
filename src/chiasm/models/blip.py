"""BLIP (Li et al. 2022, "BLIP: Bootstrapping Language-Image Pre-training"; MED in §3.1, objectives in §3.2).

A ViT and a BERT with cross-attention in every layer, used in three modes: text alone (contrast), text with the
picture (matching) and causally with the picture (captions). A pretrained checkpoint shares all but self-attention
between encoder and decoder; fine-tuned ones hold what their task needs: a captioner the decoder, a retriever the
encoder with its heads, a question answerer both, untied, the decoder reading the question's states (fig. 5).

Departures: no dropout. The question's padding is masked when an answer is generated, as it is in training (the
reference looks at it, so its replies depend on the batch). A decoder that reads a question has keys as wide as the
text, which the reference takes to be as wide as the picture (its published sizes are equal).
"""

from __future__ import annotations

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
from chiasm.vision.conv_grid import ConvGridConfig
from chiasm.vision.hybrid import HybridConfig
from chiasm.vision.vit import ViTConfig

HEAT_DEPTH = 2 / 3  # share of the layers below the one whose attention grounds (ALBEF §6.2: the third of its upper six)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlipConfig:
    """A BLIP.

    Attributes:
        vision: the picture tower; published ones are ViTs.
        language: the text tower; with `twin` it is encoder and decoder at once (the pretrained form).
        encoder, decoder: whether the checkpoint reads text with the picture, and whether it writes.
        embed_dim: E of the contrastive space, with the matching head; None = no such heads.
        start_id: the id that the decoder begins with, [DEC].
        match_id: the id that replaces a text's first for matching, [ENC]; None = it stays [CLS].
        temperature: what similarities are divided by, where the checkpoint doesn't learn it.
    """

    vision: ViTConfig | ConvGridConfig | HybridConfig
    language: BertConfig
    encoder: bool
    decoder: bool
    embed_dim: int | None
    start_id: int
    match_id: int | None = None
    temperature: float = 0.07

    @property
    def asks(self) -> bool:
        """The decoder reads a question's states, not the picture's."""
        return self.encoder and self.decoder and not self.language.twin

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What this checkpoint can do."""
        judges = ("embed", "classify", "match", "ground") if self.embed_dim is not None else ()
        return (*judges, *(("generate", "score") if self.decoder else ()))

    def build(self) -> Blip:
        return Blip(self)


class Blip(Seeing, CrossAttentionLM):
    """Pictures and texts: contrast, matching, captions, answers."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = config.vision.build()
        self.language: Bert = config.language.build()
        if config.asks:
            cross = CrossConfig(context_dim=config.language.hidden_dim)
            self.decoder: Bert | None = replace(config.language, cross=cross).build()
        else:
            self.decoder = None
        self.lm_head = BertHead(config.language) if config.decoder else None
        width, joint = config.language.hidden_dim, config.embed_dim
        self.vision_proj = nn.Linear(config.vision.hidden_dim, joint) if joint else None
        self.text_proj = nn.Linear(width, joint) if joint else None
        self.match_head = nn.Linear(width, 2) if joint else None
        learns = config.language.twin and joint is not None
        self.temperature = nn.Parameter(torch.tensor(config.temperature)) if learns else None

    def init_weights(self) -> None:
        """Set the temperature to its first value."""
        if self.temperature is not None:
            nn.init.constant_(self.temperature, self.config.temperature)

    @property
    def writer(self) -> tuple[Bert, BertHead]:
        """The decoder and its output layer."""
        assert self.lm_head is not None
        return self.decoder if self.decoder is not None else self.language, self.lm_head

    def encode_texts(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T) ids and their mask → (B, T, D) states of the text alone."""
        return self.language.states(ids, attend)

    def project_images(self, states: torch.Tensor) -> torch.Tensor:
        """(B, 1 + P, D) states → (B, E), L2-normalised."""
        assert self.vision_proj is not None
        return F.normalize(self.vision_proj(states[:, 0]), dim=-1)

    def project_texts(self, states: torch.Tensor) -> torch.Tensor:
        """(B, T, D) states → (B, E), L2-normalised."""
        assert self.text_proj is not None
        return F.normalize(self.text_proj(states[:, 0]), dim=-1)

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) → (I, E), L2-normalised."""
        return self.project_images(self.encode_images(pixels))

    def embed_texts(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T) → (B, E), L2-normalised."""
        return self.project_texts(self.encode_texts(ids, attend))

    def logits(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(I, E) and (B, E) embeddings → (I, B) similarities over the temperature."""
        return images @ texts.T * self.similarity_scale

    @property
    def similarity_scale(self) -> torch.Tensor | float:
        """What similarities are multiplied by."""
        return 1 / (self.config.temperature if self.temperature is None else self.temperature)

    @property
    def start_id(self) -> int:
        """What a caption begins with."""
        return self.config.start_id

    @property
    def embed_dim(self) -> int:
        """E of the contrastive space."""
        assert self.config.embed_dim is not None
        return self.config.embed_dim

    def read_texts(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> TextStates:
        """(B, T) ids and their mask → the texts, read by themselves."""
        return TextStates(ids, attend, self.encode_texts(ids, attend))

    def match_scores(
        self, texts: TextStates, images: torch.Tensor, record: dict[int, list[torch.Tensor]] | None = None
    ) -> torch.Tensor:
        """Judge pairs.

        Args:
            texts: B texts; only their ids are used, for they are read anew with the picture.
            images: (B, 1 + P, D) states of their pictures.
            record: see `Bert.encode`.

        Returns:
            (B, 2) scores of "doesn't belong" and "belongs".
        """
        assert self.match_head is not None
        ids = texts.ids
        if self.config.match_id is not None:
            ids = torch.cat((torch.full_like(ids[:, :1], self.config.match_id), ids[:, 1:]), 1)
        x = self.language.encode(self.language.embed(ids), texts.attend, context=Context(images), record=record)
        return self.match_head(x[:, 0])

    def write(self, ids: torch.Tensor, attend: torch.Tensor | None, images: torch.Tensor) -> torch.Tensor:
        """(B, T) ids that begin with the start, right-padded, and (B, 1 + P, D) pictures → (B, T, V) next words."""
        bert, _ = self.writer
        return self.scores(bert.encode(bert.embed(ids), attend, context=Context(images), causal=True))

    def match_logits(self, batch: Batch) -> torch.Tensor:
        """(B,) log-odds that each row's picture and text belong together."""
        assert batch.input_ids is not None
        scores = self.match_scores(self._unread(batch), self.picture_states(batch))
        return scores[:, 1] - scores[:, 0]

    @staticmethod
    def _unread(batch: Batch) -> TextStates:
        assert batch.input_ids is not None
        return TextStates(batch.input_ids, batch.attention_mask, batch.input_ids[..., None].float())

    def heat(self, batch: Batch) -> torch.Tensor:
        """(B, rows, columns) Grad-CAM of a match, on cross-attention three quarters up."""
        assert batch.input_ids is not None
        layer = int(HEAT_DEPTH * len(self.language.blocks))
        record: dict[int, list[torch.Tensor]] = {layer: []}
        # a frozen model's weights carry no graph of their own
        states = self.picture_states(batch).detach().requires_grad_(True)
        scores = self.match_scores(self._unread(batch), states, record)
        (gradient,) = torch.autograd.grad(scores[:, 1].sum(), record[layer][0])
        words = torch.ones_like(batch.input_ids, dtype=torch.bool)
        words = (words if batch.attention_mask is None else batch.attention_mask).clone()
        words[:, 0] = False  # the class token isn't a word
        cam = grad_cam(record[layer][0].detach(), gradient, words)
        return cam.unflatten(1, (self.config.vision.grid, self.config.vision.grid))

    def read(self, batch: Batch) -> Reading:
        """The picture's states, or `features`, and the caption so far; or the question's states and the answer's."""
        assert batch.input_ids is not None
        ids, attend = batch.input_ids, batch.attention_mask
        states = self.picture_states(batch)
        if not self.config.asks:
            return Reading(states, None, ids, attend)
        start = batch.source_length
        assert start is not None, "a question's length comes from the processor"
        asked = None if attend is None else attend[:, :start]
        x = self.language.embed(ids[:, :start], places(asked))
        question = self.language.encode(x, asked, context=Context(states))
        return Reading(question, asked, ids[:, start:], None if attend is None else attend[:, start:])


def text(vocab: int = 30524, width: int = 768, layers: int = 12, vision: int = 768, twin: bool = False) -> BertConfig:
    """BLIP's BERT: no segment kinds, cross-attention in every layer."""
    return BertConfig(
        vocab_size=vocab,
        context_length=512,
        hidden_dim=width,
        num_layers=layers,
        num_heads=width // 64,
        mlp_dim=4 * width,
        num_types=0,
        cross=CrossConfig(context_dim=vision),
        twin=twin,
    )


def tower(image: int, width: int = 768, layers: int = 12, heads: int = 12, patch: int = 16) -> ViTConfig:
    """BLIP's ViT: a class token, no norm before the blocks."""
    return vit(image, patch, width, layers, heads, 4 * width, norm_eps=1e-5)


def _blip(image: int, *, large: bool = False, encoder: bool, decoder: bool, joint: bool = False) -> BlipConfig:
    vision = tower(image, 1024, 24, 16) if large else tower(image)
    twin = encoder and decoder and joint
    return BlipConfig(
        vision=vision,
        language=text(vision=vision.hidden_dim, twin=twin),
        encoder=encoder,
        decoder=decoder,
        embed_dim=256 if joint else None,
        start_id=30522,
        match_id=30523 if twin else None,
    )


PRESETS = {
    "blip_b": _blip(224, encoder=True, decoder=True, joint=True),
    "blip_l": _blip(224, large=True, encoder=True, decoder=True, joint=True),
    "blip_caption_b": _blip(384, encoder=False, decoder=True),
    "blip_caption_l": _blip(384, large=True, encoder=False, decoder=True),
    "blip_vqa_b": _blip(384, encoder=True, decoder=True),
    "blip_retrieval_b": _blip(384, encoder=True, decoder=False, joint=True),
    "blip_retrieval_l": _blip(384, large=True, encoder=True, decoder=False, joint=True),
}


def processor(config: BlipConfig, parts: Parts) -> FusionProcessor:
    """Stretch to the exact size; captions start with [DEC], questions stand before it."""
    return FusionProcessor(
        parts.tokenizer,
        tower_pictures(parts, "BlipImageProcessor", config.vision, patch=config.vision.patch_size),
        config.language.context_length,
        start_id=config.start_id if config.decoder else None,
        asks=config.asks,
        settings=parts.settings,
    )


def tiny(*, encoder: bool = True, decoder: bool = True, joint: bool = True) -> tuple[BlipConfig, FusionProcessor]:
    """A miniature: the pretrained form by default, or one of the fine-tuned ones."""
    tokenizer = tiny_tokenizer("bert")
    start, match = len(tokenizer), len(tokenizer) + 1
    tokenizer.add_control("[DEC]", "[ENC]")
    twin = encoder and decoder and joint
    language = replace(text(len(tokenizer), 32, 4, 48, twin), num_heads=2, mlp_dim=64, context_length=64)
    config = BlipConfig(
        vision=replace(tower(32, 48, 2, 2, 8), mlp_dim=64),
        language=language,
        encoder=encoder,
        decoder=decoder,
        embed_dim=16 if joint else None,
        start_id=start,
        match_id=match if twin else None,
    )
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="blip",
        summary="mixture of encoder and decoder: contrast, matching and captions over one text tower",
        paper="Li et al. 2022, BLIP: Bootstrapping Language-Image Pre-training",
        capabilities=("embed", "classify", "match", "generate", "score", "ground"),
        config_type=BlipConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
