"""Next-token cross-entropy on supervised tokens, and several questions that share one picture's tokens.

    L = −1/|S| Σ_{(b,t) ∈ S} log p(y_{b,t} | everything before t that t may see),   S = {(b, t): labels ≠ −100}

Labels stand at the tokens they name, so the hidden state one place to the left predicts them. `answer_loss`
turns only those hidden states into logits; `token_loss` is the plain form that it must equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.core.batch import Batch
from chiasm.objectives.config import ObjectiveConfig

IGNORED = -100


def token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of every supervised token.

    Args:
        logits: (B, T, V).
        labels: (B, T) int64, -100 where nothing is supervised; position 0 has no predictor and is left out.

    Returns:
        A scalar.
    """
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)


def answer_loss(
    hidden: torch.Tensor, labels: torch.Tensor, logits: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """`token_loss` without the logits of unsupervised positions.

    Args:
        hidden: (B, T, D) final hidden states.
        labels: (B, T) int64, -100 where nothing is supervised.
        logits: (n, D) → (n, V), the language model's output layer.

    Returns:
        A scalar.
    """
    row, column = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    return F.cross_entropy(logits(hidden[row, column]).float(), labels[row, column + 1])


@dataclass(frozen=True, kw_only=True, slots=True)
class NextToken(ObjectiveConfig):
    """Next-token cross-entropy on the supervised tokens of a batch.

    Attributes:
        z_loss: weight of the squared logarithm of the softmax's denominator (Chowdhery et al. 2022, §5); 0 = none.
    """

    takes: ClassVar[str | None] = "conversations"
    z_loss: float = 0.0

    def build(self) -> NextTokenObjective:
        return NextTokenObjective(self)


class NextTokenObjective(nn.Module):
    """`batch.labels` says what is learned; only those positions become logits where the module gives hidden states."""

    def __init__(self, config: NextToken) -> None:
        super().__init__()
        self.config = config

    def forward(self, module: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The mean loss of the batch's supervised tokens."""
        assert batch.labels is not None
        learned = batch.labels[:, 1:] != IGNORED
        if hasattr(module, "hidden") and hasattr(module.language, "logits"):
            logits = module.language.logits(module.hidden(batch)[:, :-1][learned])
        else:
            logits = module(batch)[:, :-1][learned]
        logits = logits.float()  # (n, V)
        loss = F.cross_entropy(logits, batch.labels[:, 1:][learned])
        if not self.config.z_loss:
            return {"loss": loss}
        z = logits.logsumexp(-1).square().mean()
        return {"loss": loss + self.config.z_loss * z, "token_loss": loss, "z": z}

    def weight(self, batch: Batch) -> float:
        """How many tokens the batch's mean is over: what several parts of one step are weighed by."""
        assert batch.labels is not None
        return float((batch.labels[:, 1:] != IGNORED).sum())

    def after_step(self, module: Any, step: int) -> None:
        """Nothing moves."""
