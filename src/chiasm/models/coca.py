"""CoCa (Yu et al. 2022, "CoCa: Contrastive Captioners are Image-Text Foundation Models", §3).

A ViT, attention poolers, and a causal text tower in two halves; one forward pass gives the vectors for contrast and
the logits of the caption. Poolers: OpenCLIP's published models have one with 256 queries, whose first result is the
picture's vector; the paper's cascade has 256 queries for captions and one more that pools those (§3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.connectors.attention_pool import AttentionPoolConfig
from chiasm.core.batch import Batch
from chiasm.core.registry import Family, register
from chiasm.fusion.cross_attention import CrossState, Seeing, places
from chiasm.language.two_halves import Captioner, CaptionerConfig
from chiasm.models.assembly import Parts, clip_tower, tower_pictures
from chiasm.nn.fusion_blocks import Context
from chiasm.nn.masks import real_tokens
from chiasm.processing.fusion import FusionProcessor
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.vision.hybrid import HybridConfig
from chiasm.vision.vit import ViTConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class CocaConfig:
    """A CoCa.

    Attributes:
        vision: the picture tower; it normalises its own states only before cascaded poolers.
        language: the text tower, E wide where a picture's tokens meet it.
        embed_dim: E.
        num_queries: tokens of a picture; with one pooler, the first is its vector.
        pool_heads: heads of the poolers.
        cascade: the vector comes from a second pooler on the first one's tokens.
        init_scale: logarithm of the similarity's first scale.
    """

    vision: ViTConfig | HybridConfig
    language: CaptionerConfig
    embed_dim: int
    num_queries: int = 256
    pool_heads: int = 8
    cascade: bool = False
    init_scale: float = math.log(1 / 0.07)

    def build(self) -> Coca:
        return Coca(self)


class Coca(Seeing):
    """Pictures and texts: contrast, and captions."""

    def __init__(self, config: CocaConfig) -> None:
        super().__init__()
        self.config = config
        width, joint = config.vision.hidden_dim, config.embed_dim
        self.vision = config.vision.build()
        self.connector = AttentionPoolConfig(
            input_dim=width, output_dim=joint, num_queries=config.num_queries, num_heads=config.pool_heads
        ).build()
        self.contrast_pool = (
            AttentionPoolConfig(input_dim=joint, output_dim=joint, num_queries=1, num_heads=config.pool_heads).build()
            if config.cascade
            else None
        )
        self.norm = None if config.cascade else nn.LayerNorm(joint)
        self.language: Captioner = config.language.build()
        self.vision_proj = nn.Linear(joint, joint, bias=False)
        self.text_proj = nn.Linear(config.language.hidden_dim, joint, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.init_scale))

    def init_weights(self) -> None:
        """Set the similarity's scale to its first value."""
        nn.init.constant_(self.logit_scale, self.config.init_scale)

    def see(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 1 + P, D) states → (B, E) vectors, L2-normalised, and (B, N, E) tokens."""
        tokens = self.connector(states)
        if self.contrast_pool is not None:
            pooled = self.contrast_pool(tokens)[:, 0]
        else:
            assert self.norm is not None
            tokens = self.norm(tokens)
            pooled, tokens = tokens[:, 0], tokens[:, 1:]
        return F.normalize(self.vision_proj(pooled), dim=-1), tokens

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) → (I, E), L2-normalised."""
        return self.see(self.encode_images(pixels))[0]

    def embed_texts(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T) → (B, E), L2-normalised."""
        return F.normalize(self.text_proj(self.language.read(ids, attend)[0]), dim=-1)

    def logits(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(I, E) and (B, E) embeddings → (I, B) similarities, scaled."""
        return self.logit_scale.exp() * images @ texts.T

    def contrast_and_write(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Everything both losses need, from one pass over pictures and texts.

        Args:
            batch: `pixel_values` (B, 3, h, w) and right-padded `input_ids` (B, T), row for row.

        Returns:
            (B, E) pictures and (B, E) texts, L2-normalised, and (B, T, V) logits of the next words.
        """
        assert batch.input_ids is not None
        images, tokens = self.see(self.picture_states(batch))
        sentence, x = self.language.read(batch.input_ids, batch.attention_mask)
        written = self.language.head(self.language.write(x, self.language.project(tokens)))
        return images, F.normalize(self.text_proj(sentence), dim=-1), written

    def hidden(self, batch: Batch) -> torch.Tensor:
        """(B, T, D) final states of left- or right-padded captions; `scores` makes logits of them."""
        assert batch.input_ids is not None
        attend = batch.attention_mask
        x = self.language.words(batch.input_ids, places(attend), attend)
        return self.language.write(x, self.language.project(self.see(self.picture_states(batch))[1]), attend)

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, D) states of `hidden` → (…, V) logits."""
        return self.language.head(hidden)

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, T, V) logits of the next words."""
        return self.scores(self.hidden(batch))

    def prefill(self, batch: Batch, capacity: int) -> tuple[torch.Tensor, CrossState]:
        """Read left-padded beginnings; see `CrossAttentionLM.prefill`."""
        assert batch.input_ids is not None
        rows, length = batch.input_ids.shape
        cache, attend = self.language.new_cache(rows, capacity), real_tokens(batch.attention_mask)
        projected = self.language.project(self.see(self.picture_states(batch))[1])
        x = self.language.words(batch.input_ids, places(attend), attend, cache)
        x = self.language.write(x, projected, attend, cache)
        cache.advance(length)
        if attend is None:
            following = torch.full((rows, 1), length, device=x.device)
        else:
            following = attend.sum(1, keepdim=True)
            attend = F.pad(attend, (0, capacity - length), value=True)
        return self.scores(x[:, -1]), CrossState(cache, Context(None, projected=projected), attend, following)

    def decode(self, token_ids: torch.Tensor, state: CrossState) -> torch.Tensor:
        """One more token; see `CrossAttentionLM.decode`."""
        attend = None if state.attend is None else state.attend[:, : state.cache.length + 1]
        projected = [pair for pair in state.context.projected if pair is not None]
        x = self.language.words(token_ids[:, None], state.positions, attend, state.cache)
        x = self.language.write(x, projected, attend, state.cache)
        state.cache.advance(1)
        state.positions = state.positions + 1
        return self.scores(x[:, -1])


def _coca(
    vision: ViTConfig,
    joint: int,
    heads: int,
    *,
    layers: int = 12,
    vocab: int = 49408,
    cascade: bool = False,
    pool_heads: int = 8,
) -> CocaConfig:
    language = CaptionerConfig(
        vocab_size=vocab,
        context_length=76,
        hidden_dim=joint,
        num_heads=heads,
        mlp_dim=4 * joint,
        text_layers=layers,
        fusion_layers=layers,
    )
    return CocaConfig(vision=vision, language=language, embed_dim=joint, cascade=cascade, pool_heads=pool_heads)


def tower(
    image: int,
    patch: int,
    width: int,
    layers: int,
    heads: int,
    mlp: int | None = None,
    *,
    norm_pre: bool = True,
    norm_post: bool = False,
) -> ViTConfig:
    """OpenCLIP's ViT under a pooler: GELU; normalised after the blocks only before cascaded poolers."""
    clip = clip_tower(image, patch, width, layers, heads, mlp)
    return replace(clip, act="gelu", norm_pre=norm_pre, norm_post=norm_post)


_PAPER = tower(288, 18, 1408, 40, 16, 6144, norm_pre=False, norm_post=True)
PRESETS = {
    "coca_vit_b_32": _coca(tower(224, 32, 768, 12, 12), 512, 8),
    "coca_vit_l_14": _coca(tower(224, 14, 1024, 24, 16), 768, 12),
    # as in table 1: 18 + 18 text layers as wide as the picture tower; OpenCLIP's second MLP a fusion layer stays
    "coca_2b": _coca(_PAPER, 1408, 16, layers=18, vocab=64000, cascade=True, pool_heads=16),
}


def processor(config: CocaConfig, parts: Parts) -> FusionProcessor:
    """Resize the short side, crop the centre; captions begin with the start token."""
    return FusionProcessor(
        parts.tokenizer,
        tower_pictures(parts, "CLIPImageProcessor", config.vision),
        config.language.context_length,
        start_id=parts.tokenizer.bos_id,
        end_id=parts.tokenizer.eos_id,
        settings=parts.settings,
    )


def tiny() -> tuple[CocaConfig, FusionProcessor]:
    """A miniature with every part of the published ones."""
    tokenizer = tiny_tokenizer("clip")
    config = _coca(tower(32, 8, 48, 2, 2, 64), 32, 2, layers=2, vocab=len(tokenizer), pool_heads=2)
    config = replace(config, num_queries=5, language=replace(config.language, context_length=48))
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="coca",
        summary="contrast and captions from one pass over a text tower in two halves",
        paper="Yu et al. 2022, CoCa: Contrastive Captioners are Image-Text Foundation Models",
        capabilities=("embed", "classify", "generate", "score"),
        config_type=CocaConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
