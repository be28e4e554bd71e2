"""Choosing one token from a row of logits.

Nucleus sampling (Holtzman et al. 2020, §3.1): the smallest set of most probable tokens whose mass reaches p.
Temperature is applied first, as in published generation code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from chiasm.core.errors import ConfigError

_COLDEST = 1e-6  # logits divided by less overflow, and nothing but the most probable token is left long before


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: 0 = greedy, the most probable token.
        top_p: mass of the nucleus, in (0, 1]; 1 = all tokens.
        seed: every sequence draws from a generator of its own, so a reply doesn't depend on its neighbours.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError("temperature_invalid", f"temperature is {self.temperature}, must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError("top_p_invalid", f"top_p is {self.top_p}, must be above 0 and at most 1")

    def generators(self, count: int) -> list[torch.Generator]:
        """One source of randomness a sequence; equal seeds give equal draws in any batch."""
        sources = []
        for _ in range(count):
            source = torch.Generator()
            if self.seed is None:
                source.seed()
            else:
                source.manual_seed(self.seed)
            sources.append(source)
        return sources


def choose(logits: torch.Tensor, sampling: Sampling, generators: list[torch.Generator]) -> torch.Tensor:
    """Draw the next token of every sequence.

    Args:
        logits: (B, V).
        sampling: how.
        generators: one a sequence, on the CPU.

    Returns:
        (B,) ids.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    temperature = max(sampling.temperature, _COLDEST)
    probabilities = nucleus((logits.float() / temperature).softmax(-1), sampling.top_p).cpu()
    drawn = [torch.multinomial(row, 1, generator=source) for row, source in zip(probabilities, generators, strict=True)]
    return torch.cat(drawn).to(logits.device)


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero everything outside the nucleus.

    Args:
        probabilities: (B, V), rows sum to 1.
        top_p: mass to keep.

    Returns:
        (B, V), unnormalised; at least the most probable token stays.
    """
    if top_p >= 1:
        return probabilities
    ordered, order = probabilities.sort(-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p  # mass before this token already reaches p
    outside[:, 0] = False  # a p that float32 rounds to 0 would leave nothing
    return probabilities.masked_fill(outside.scatter(-1, order, outside), 0.0)


def log_probability(logits: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """(B, V) logits and (B,) ids → (B,) log-probabilities, without a (B, V) log-softmax."""
    logits = logits.float()
    return logits.gather(-1, token_ids[:, None])[:, 0] - logits.logsumexp(-1)
