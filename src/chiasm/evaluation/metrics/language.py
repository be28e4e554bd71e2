"""Likelihood: perplexity of given answers."""

from __future__ import annotations

import math
from collections.abc import Sequence


def perplexity(logprobs: Sequence[Sequence[float]]) -> float:
    """exp of the mean negative log-probability over all tokens of all answers.

    Args:
        logprobs: natural logarithms, one sequence an answer.

    Returns:
        At least 1; infinite where a token is impossible or there is no token.
    """
    tokens = [value for answer in logprobs for value in answer]
    if not tokens or any(value == -math.inf for value in tokens):
        return math.inf
    mean = -math.fsum(tokens) / len(tokens)
    return math.exp(mean) if mean < 700 else math.inf
