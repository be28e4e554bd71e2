"""Hinge ranking losses (Kiros et al. 2014, "VSE", eq. 6; Faghri et al. 2018, "VSE++", eq. 5–6; Vendrov et al. 2016).

With s_ij the similarity of picture i and text j and a margin α:

    sum:      Σ_i Σ_{j≠i} [α − s_ii + s_ij]₊ + [α − s_ii + s_ji]₊
    hardest:  Σ_i max_{j≠i} [α − s_ii + s_ij]₊ + max_{j≠i} [α − s_ii + s_ji]₊
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from chiasm.core.batch import Batch
from chiasm.core.errors import DataError
from chiasm.objectives.config import ObjectiveConfig
from chiasm.objectives.pairs import embed_pictures
from chiasm.objectives.precision import in_float32


def hinge_loss(similarity: torch.Tensor, margin: float, *, hardest: bool) -> torch.Tensor:
    """Rank every right pair above the wrong ones.

    Args:
        similarity: (B, B), pictures by texts; the diagonal is the right pairs.
        margin: α.
        hardest: only the worst violation of each row and column counts (VSE++).

    Returns:
        The sum over the batch, a scalar.

    Raises:
        DataError: a batch of one ranks nothing.
    """
    if len(similarity) < 2:
        raise DataError("batch_of_one", f"a batch of {len(similarity)} pair ranks nothing; at least 2 are needed")
    right = similarity.diagonal()
    own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    texts = (margin + similarity - right[:, None]).clamp(min=0).masked_fill(own, 0)  # wrong texts of a picture
    images = (margin + similarity - right[None, :]).clamp(min=0).masked_fill(own, 0)  # wrong pictures of a text
    if hardest:
        return texts.amax(1).sum() + images.amax(0).sum()
    return texts.sum() + images.sum()


@dataclass(frozen=True, kw_only=True, slots=True)
class Hinge(ObjectiveConfig):
    """VSE's loss, or VSE++'s.

    Attributes:
        margin: α.
        hardest: only the worst violation counts (VSE++).
    """

    margin: float = 0.2
    hardest: bool = True

    def build(self) -> HingeObjective:
        return HingeObjective(self)


class HingeObjective:
    """Rows of a batch are pairs of a picture and a text."""

    def __init__(self, config: Hinge) -> None:
        self.config = config

    def __call__(self, module: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The loss of one batch."""
        assert batch.input_ids is not None
        images, texts = embed_pictures(module, batch), module.embed_texts(batch.input_ids, batch.attention_mask)
        similarity = in_float32(module.logits)(images, texts)
        return {"loss": hinge_loss(similarity, self.config.margin, hardest=self.config.hardest)}

    def after_step(self, module: Any, step: int) -> None:
        """Nothing to do."""
