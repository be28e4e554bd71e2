"""Next-token cross-entropy on supervised tokens, and several questions that share one picture's tokens.

    L = −1/|S| Σ_{(b,t) ∈ S} log p(y_{b,t} | everything before t that t may see),   S = {(b, t): labels ≠ −100}

Labels stand at the tokens they name, so the hidden state one place to the left predicts them. `answer_loss`
turns only those hidden states into logits; `token_loss` is the plain form that it must equal.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

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
