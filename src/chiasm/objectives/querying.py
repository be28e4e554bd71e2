"""BLIP-2's first-stage losses on a Q-Former (Li et al. 2023, §3.2): contrast, matching, captioning, in equal parts;
InternVL's second stage has the same three on QLLaMA (Chen et al. 2023, §3.3).

Contrast: cross-entropy over the batch's pairs, labels smoothed by 0.1, a pair's similarity being its best query's. No
momentum, no queue. Matching: each pair, and for each a hard negative picture and a hard negative text drawn in
proportion to their similarity. Captioning: the next word, after [DEC].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.core.batch import Batch
from chiasm.objectives.config import ObjectiveConfig
from chiasm.objectives.precision import in_float32

IGNORED = -100


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryingLosses(ObjectiveConfig):
    """The three losses of the first stage.

    Attributes:
        smoothing: of the contrastive labels.
        contrast, matching, captioning: weight of each.
    """

    smoothing: float = 0.1
    contrast: float = 1.0
    matching: float = 1.0
    captioning: float = 1.0

    def build(self) -> QueryingObjective:
        return QueryingObjective(self)


class QueryingObjective(nn.Module):
    """Rows of a batch are pairs of a picture and a text."""

    def __init__(self, config: QueryingLosses) -> None:
        super().__init__()
        self.config = config

    def forward(self, module: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The losses of one batch: `pixel_values` or `features` (B, …), `input_ids` (B, T), `attention_mask`."""
        assert batch.input_ids is not None
        ids, attend = batch.input_ids, batch.attention_mask
        features = batch.features_by(module.visual_features)
        # a family may embed a text in other words than it matches and writes
        summarised = batch.instruction_ids is not None
        texts = module.embed_texts(*((batch.instruction_ids, batch.instruction_mask) if summarised else (ids, attend)))
        vectors = module.project_images(features)  # (B, Q, E)
        similar = _best_query(vectors, texts) * module.similarity_scale
        contrast = contrast_loss(similar, self.config.smoothing)
        matching = self._matching(module, features, ids, attend, similar.detach())
        words = module.caption_logits(features, ids, attend)
        captioning = caption_loss(words, ids, attend)
        weights = self.config
        total = weights.contrast * contrast + weights.matching * matching + weights.captioning * captioning
        return {"loss": total, "contrast": contrast, "matching": matching, "captioning": captioning}

    def after_step(self, module: Any, step: int) -> None:
        """Keep the similarity's scale in the range that published training allows."""
        module.bound_scale()

    @staticmethod
    def _matching(
        module: Any, features: torch.Tensor, ids: torch.Tensor, attend: torch.Tensor | None, similar: torch.Tensor
    ) -> torch.Tensor:
        pictures, texts = hard_negatives(similar)
        rows = torch.arange(len(ids), device=ids.device)
        which = torch.cat((rows, pictures, rows))
        said = torch.cat((rows, rows, texts))
        scores = module.match_scores(features[which], ids[said], None if attend is None else attend[said])
        labels = (which == said).long()
        return F.cross_entropy(scores.float(), labels)


def contrast_loss(similar: torch.Tensor, smoothing: float) -> torch.Tensor:
    """(B, B) scaled similarities of pictures and texts → the mean of both directions' cross-entropies."""
    labels = torch.arange(len(similar), device=similar.device)
    across = F.cross_entropy(similar.float(), labels, label_smoothing=smoothing)
    down = F.cross_entropy(similar.float().T, labels, label_smoothing=smoothing)
    return (across + down) / 2


def hard_negatives(similar: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each text a picture, and for each picture a text, that isn't its own.

    Args:
        similar: (B, B) pictures by texts; a more similar one is drawn more often.

    Returns:
        (B,) picture for each text, (B,) text for each picture; from the global generator.
    """
    own = torch.eye(len(similar), dtype=torch.bool, device=similar.device)
    chances = [matrix.float().softmax(-1).masked_fill(own, 0.0) + 1e-4 * ~own for matrix in (similar.T, similar)]
    if len(similar) == 1:  # no other pair: its own stands in, and its label says so
        return own[0].long() * 0, own[0].long() * 0
    pictures, texts = (torch.multinomial(chance, 1)[:, 0] for chance in chances)
    return pictures, texts


@in_float32
def _best_query(vectors: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """(I, Q, E) vectors of pictures' queries, (T, E) texts → (I, T) each picture's largest cosine."""
    return torch.einsum("iqe,te->itq", vectors, texts).amax(-1)


def caption_loss(logits: torch.Tensor, ids: torch.Tensor, attend: torch.Tensor | None) -> torch.Tensor:
    """Mean cross-entropy of every word but the first, which is [DEC]: (B, T, V) logits, (B, T) ids and mask."""
    labels = ids if attend is None else ids.masked_fill(~attend.bool(), IGNORED)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)
