"""InternVL-C and InternVL-G (Chen et al. 2023, "InternVL: Scaling up Vision Foundation Models and Aligning for Generic
Visual-Linguistic Tasks", §3.2 and §3.3).

InternVL-C: InternViT-6B, pooled by an attention whose query is the mean, and a LLaMA-7B read at the end of its text:
a dual encoder. InternVL-G: LLaMA gets 96 queries that look at the picture (QLLaMA), and with them, as BLIP-2's first
stage, contrast, matching and captions that differ in the mask alone. A picture's vector is then the sum of the
tower's and the queries', each of length 1; `tower_only` leaves the queries out, which is InternVL-C on the same files.

Departures: captions are scored and learned without their prompt (`English caption:`), and aren't generated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.connectors.mean_attention import MeanAttentionConfig
from chiasm.core.batch import Batch
from chiasm.core.registry import Family, register
from chiasm.language.decoder import Decoder, DecoderConfig
from chiasm.language.querying import QueryDecoder, QueryDecoderConfig
from chiasm.models.assembly import Parts, llama, picture_processor, vit
from chiasm.nn.attention import QKNormConfig
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.summarised import SummarisedPairs, SummarisedProcessor
from chiasm.vision.vit import ViT, ViTConfig

CONTEXT = 80  # tokens of a text, in training and in published evaluation
COLOURS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PAPER = (
    "Chen et al. 2023, InternVL: Scaling up Vision Foundation Models and Aligning for Generic Visual-Linguistic Tasks"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class InternVLCConfig:
    """An InternVL-C.

    Attributes:
        vision: InternViT.
        language: LLaMA, without an output layer.
        embed_dim: E of the joint space.
        pool_heads: heads of the pooling.
        init_scale: the similarity's scale at first, as a logarithm.
    """

    vision: ViTConfig
    language: DecoderConfig
    embed_dim: int = 768
    pool_heads: int = 16
    init_scale: float = math.log(1 / 0.07)

    def pool(self, width: int) -> MeanAttentionConfig:
        """The pooling of features of a width."""
        return MeanAttentionConfig(input_dim=width, output_dim=self.embed_dim, num_heads=self.pool_heads)

    def build(self) -> InternVLC:
        """A model with random weights."""
        return InternVLC(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class InternVLGConfig(InternVLCConfig):
    """An InternVL-G.

    Attributes:
        language: QLLaMA.
        tower_only: pictures are embedded without the queries.
    """

    language: QueryDecoderConfig
    tower_only: bool = False

    @property
    def unread(self) -> tuple[str, ...]:
        """Parameters that take no part."""
        return ("query_pool.",) if self.tower_only else ("\0",)

    def build(self) -> InternVLG:
        """A model with random weights."""
        return InternVLG(self)


class InternVLC(nn.Module):
    """Tower and pooling on one side, a language model's last state on the other."""

    vision: ViT
    language: Decoder

    def __init__(self, config: InternVLCConfig) -> None:
        super().__init__()
        self.config = config
        self.vision, self.language = config.vision.build(), config.language.build()
        self.pool = config.pool(config.vision.hidden_dim).build()
        self.text_proj = nn.Linear(config.language.hidden_dim, config.embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.init_scale))

    def init_weights(self) -> None:
        """Start the similarity's scale where the configuration says."""
        nn.init.constant_(self.logit_scale, self.config.init_scale)

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) → (I, 1 + P, D) last states of the tower, not normalised."""
        return self.vision.features(pixels)

    def embed_features(self, features: torch.Tensor) -> torch.Tensor:
        """(I, P, D) → (I, E), L2-normalised."""
        return F.normalize(self.pool(features), dim=-1)

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) → (I, E), L2-normalised."""
        return self.embed_features(self.visual_features(pixels))

    def embed_texts(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T), padded on the right → (B, E) from each row's last real token, L2-normalised."""
        states = self.language(self.language.embed_tokens(ids), attend=attend)
        last = torch.full_like(ids[:, 0], ids.shape[1] - 1) if attend is None else attend.sum(1) - 1
        return F.normalize(self.text_proj(states[torch.arange(len(ids), device=ids.device), last]), dim=-1)

    def logits(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(I, E), (B, E) → (I, B) scaled similarities."""
        return self.similarity_scale * images @ texts.T

    @property
    def similarity_scale(self) -> torch.Tensor:
        """What similarities are multiplied by."""
        return self.logit_scale.exp()

    def bound_scale(self) -> None:
        """Keep the scale at 100 or less, as CLIP does."""
        with torch.no_grad():
            self.logit_scale.clamp_(max=math.log(100))

    def forward(self, batch: Batch) -> torch.Tensor:
        """(I, B) similarities of a batch's pictures and texts."""
        assert batch.pixel_values is not None and batch.input_ids is not None
        texts = self.embed_texts(batch.input_ids, batch.attention_mask)
        return self.logits(self.embed_images(batch.pixel_values), texts)


class InternVLG(InternVLC):
    """The same with queries in the language model: contrast, matching, captions."""

    config: InternVLGConfig
    language: QueryDecoder

    def __init__(self, config: InternVLGConfig) -> None:
        super().__init__(config)
        self.query_pool = config.pool(config.language.hidden_dim).build()
        self.match_head = nn.Linear(config.language.hidden_dim, 2)

    def project_images(self, features: torch.Tensor) -> torch.Tensor:
        """(I, P, D) features → (I, 1, E), what the queries make of them, L2-normalised."""
        queries, _ = self.language.states(features)
        return F.normalize(self.query_pool(queries), dim=-1)[:, None]

    def embed_features(self, features: torch.Tensor) -> torch.Tensor:
        """(I, P, D) → (I, E), L2-normalised."""
        own = super().embed_features(features)
        return own if self.config.tower_only else F.normalize(own + self.project_images(features)[:, 0], dim=-1)

    def match_scores(self, features: torch.Tensor, ids: torch.Tensor, attend: torch.Tensor | None) -> torch.Tensor:
        """(B, 2) scores of "doesn't belong" and "belongs", for (B, P, D) features and (B, T) texts."""
        queries, _ = self.language.states(features, ids, attend)
        return self.match_head(queries).mean(1)

    def match_logits(self, batch: Batch) -> torch.Tensor:
        """(B,) log-odds that each row's picture and text belong together."""
        assert batch.input_ids is not None
        features = batch.features_by(self.visual_features)
        scores = self.match_scores(features, batch.input_ids, batch.attention_mask)
        return scores[:, 1] - scores[:, 0]

    def caption_logits(self, features: torch.Tensor, ids: torch.Tensor, attend: torch.Tensor | None) -> torch.Tensor:
        """(B, T, V) scores of the next word, for (B, P, D) features and (B, T) captions."""
        _, states = self.language.states(features, ids, attend, kind="causal")
        return self.language.logits(states)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Everything the heads say of a batch of pairs, in a row: (B, 2) matching, then (B·T·V) captions."""
        assert batch.pixel_values is not None and batch.input_ids is not None
        features = self.visual_features(batch.pixel_values)
        matched = self.match_scores(features, batch.input_ids, batch.attention_mask)
        words = self.caption_logits(features, batch.input_ids, batch.attention_mask)
        return torch.cat((matched.flatten(), words.flatten()))


def tower(image: int, patch: int, width: int, layers: int, heads: int, mlp: int) -> ViTConfig:
    """InternViT-6B's shape: RMSNorm, normalised queries and keys, no final norm."""
    return vit(
        image, patch, width, layers, heads, mlp, norm_post=False, rms_norm=True, qkv_bias=False,
        qk_norm=QKNormConfig(eps=1e-6), layer_scale=0.1,
    )  # fmt: skip


def with_queries(language: DecoderConfig, context_dim: int, queries: int = 96, every: int = 2) -> QueryDecoderConfig:
    """A language model's shape, with queries for pictures of a width."""
    own = {name: getattr(language, name) for name in DecoderConfig.__dataclass_fields__}
    return QueryDecoderConfig(**own, context_dim=context_dim, num_queries=queries, cross_every=every)


def _llama(*, tied: bool) -> DecoderConfig:
    """Chinese-Alpaca-7B; tied = without its output layer."""
    return llama(49954, 4096, 32, 32, 32, 11008, context=2048, eps=1e-6, tie_embeddings=tied)


def _internvl_g(image: int) -> InternVLGConfig:
    return InternVLGConfig(
        vision=tower(image, 14, 3200, 48, 25, 12800), language=with_queries(_llama(tied=False), 3200)
    )


C_PRESETS = {"internvl_c_13b": InternVLCConfig(vision=tower(224, 14, 3200, 48, 25, 12800), language=_llama(tied=True))}
G_PRESETS = {"internvl_g_14b": _internvl_g(224), "internvl_g_14b_364": _internvl_g(364)}


def processor(config: InternVLCConfig, parts: Parts) -> SummarisedProcessor:
    """Shorter edge to the tower's size, centre crop, ImageNet's colours; texts of at most 80 tokens."""
    size = config.vision.image_size
    given = parts.pictures or {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}, **COLOURS}
    pictures = picture_processor(Parts(parts.tokenizer, given), "CLIPImageProcessor", size)
    kind = SummarisedPairs if isinstance(config, InternVLGConfig) else SummarisedProcessor
    return kind(parts.tokenizer, pictures, CONTEXT, settings=parts.settings)


def tiny_c() -> tuple[InternVLCConfig, SummarisedProcessor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("llama")
    language = llama(len(tokenizer), 64, 2, 2, 2, 96, context=512, tie_embeddings=True)
    config = InternVLCConfig(vision=tower(32, 8, 32, 3, 1, 64), language=language, embed_dim=16)
    return config, processor(config, Parts(tokenizer))


def tiny_g() -> tuple[InternVLGConfig, SummarisedProcessor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("llama")
    language = with_queries(llama(len(tokenizer), 64, 3, 2, 2, 96, context=512), 32, 4)
    config = InternVLGConfig(vision=tower(32, 8, 32, 3, 2, 64), language=language, embed_dim=16)
    return config, processor(config, Parts(tokenizer))


C_FAMILY: Family = register(
    Family(
        name="internvl_c",
        summary="InternViT-6B and LLaMA-7B as one large dual encoder",
        paper=PAPER,
        capabilities=("embed", "classify"),
        config_type=InternVLCConfig,
        presets=C_PRESETS,
        tiny=tiny_c,
        processor=processor,
    )
)
FAMILY: Family = register(
    Family(
        name="internvl_g",
        summary="InternViT-6B and QLLaMA, a LLaMA with queries that look at the picture: contrast, matching, captions",
        paper=PAPER,
        capabilities=("embed", "classify", "match"),
        config_type=InternVLGConfig,
        presets=G_PRESETS,
        tiny=tiny_g,
        processor=processor,
    )
)
