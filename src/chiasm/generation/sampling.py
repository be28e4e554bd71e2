"""Choosing one token from a row of logits.

Nucleus sampling (Holtzman et al. 2020, §3.1): the smallest set of most probable tokens whose mass reaches p.
Temperature is applied first, as in published generation code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from chiasm.core.errors import ConfigError

_COLDEST = 1e-6  # logits divided by less overflow, and nothing but the most probable token is left long before


class Matcher(Protocol):
    """Follows one reply and knows which tokens may come next."""

    def masked(self, logits: torch.Tensor) -> torch.Tensor:
        """(1, V) logits → the same with −∞ where a token may not come next."""

    def take(self, token_id: int) -> None:
        """The reply goes on with this token."""

    @property
    def over(self) -> bool:
        """Nothing but the end may follow."""


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

    def generator(self) -> torch.Generator:
        """A source of randomness for one reply; equal seeds give equal draws in any batch."""
        source = torch.Generator()
        if self.seed is None:
            source.seed()
        else:
            source.manual_seed(self.seed)
        return source


class Drawn(NamedTuple):
    """One token of a reply.

    Attributes:
        token_id: its id.
        logprob: under the model, at temperature 1 and with nothing left out.
        alternatives: the most probable ids of its place and their log-probabilities, where they were asked for.
    """

    token_id: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


class Chooser:
    """Draws one reply's tokens.

    Args:
        sampling: how.
        matcher: which tokens may come next; None = all.
        alternatives: most probable tokens that are told of each place.
    """

    def __init__(self, sampling: Sampling, matcher: Matcher | None = None, alternatives: int = 0) -> None:
        self.sampling, self.matcher, self.alternatives = sampling, matcher, alternatives
        self._source = sampling.generator() if sampling.temperature > 0 else None

    @property
    def over(self) -> bool:
        """The reply has the form that was wanted, and nothing can be added to it."""
        return self.matcher is not None and self.matcher.over

    def choose(self, logits: torch.Tensor) -> Drawn:
        """Draw the next token.

        Args:
            logits: (1, V); a row by itself, so that no bit of the draw depends on other replies.
        """
        allowed = logits if self.matcher is None else self.matcher.masked(logits)
        if self._source is None:
            drawn = allowed.argmax(-1)
        else:
            temperature = max(self.sampling.temperature, _COLDEST)
            probabilities = nucleus((allowed.float() / temperature).softmax(-1), self.sampling.top_p).cpu()
            drawn = torch.multinomial(probabilities, 1, generator=self._source)[0].to(logits.device)
        token_id, score = int(drawn), float(log_probability(logits, drawn))
        if self.matcher is not None:
            self.matcher.take(token_id)
        return Drawn(token_id, score, most_probable(logits, self.alternatives))


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


def most_probable(logits: torch.Tensor, count: int) -> tuple[tuple[int, float], ...]:
    """(1, V) logits → the `count` most probable ids and their log-probabilities, best first."""
    if not count:
        return ()
    ids = logits[0].topk(min(count, logits.shape[1])).indices
    scores = log_probability(logits.expand(len(ids), -1), ids)
    return tuple(zip(ids.tolist(), scores.tolist(), strict=True))


def log_probability(logits: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """(B, V) logits and (B,) ids → (B,) log-probabilities, without a (B, V) log-softmax."""
    logits = logits.float()
    return logits.gather(-1, token_ids[:, None])[:, 0] - logits.logsumexp(-1)


def check_beams(num_beams: int, sampling: Sampling) -> None:
    """Refuse a number of beams that makes no sense, by itself or with sampling.

    Raises:
        ConfigError: num_beams_invalid, beams_sampled.
    """
    if num_beams < 1:
        raise ConfigError("num_beams_invalid", f"num_beams is {num_beams}, must be at least 1")
    if num_beams > 1 and sampling.temperature > 0:
        what = f"num_beams is {num_beams} and temperature {sampling.temperature}; beams need 0"
        raise ConfigError("beams_sampled", what)
