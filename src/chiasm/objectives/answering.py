"""Cross-entropy over a classifier's known answers: what entailment, pairs and questions are fine-tuned with.

L = −1/B Σ_b log softmax(scores_b)[answer_b]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from chiasm.core.batch import Batch
from chiasm.objectives.config import ObjectiveConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenAnswer(ObjectiveConfig):
    """The right one of a few answers."""

    takes: ClassVar[str | None] = "choices"

    def build(self) -> ChosenAnswerObjective:
        return ChosenAnswerObjective()


class ChosenAnswerObjective:
    """Rows of a batch have an answer each; `module.answer_logits` scores all answers."""

    def __call__(self, module: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The mean loss of one batch, `labels` (B,), and the share that is right."""
        assert batch.labels is not None
        scores = module.answer_logits(batch).float()
        right = (scores.argmax(-1) == batch.labels).float().mean()
        return {"loss": F.cross_entropy(scores, batch.labels), "accuracy": right}

    def after_step(self, module: Any, step: int) -> None:
        """Nothing moves."""
