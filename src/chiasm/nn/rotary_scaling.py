"""Rotary positions beyond the context that they were trained in: YaRN, LongRoPE, dynamic NTK, in Qwen's steps too.

* YaRN (Peng et al. 2023, eqs. 17–23): fast features turn as they did, slow ones `factor` times slower, a ramp between;
  cosines and sines are scaled by 0.1 ln(factor) + 1.
* LongRoPE (Ding et al. 2024, §3; Phi-3's 128k variants, also called ``su``): every feature has a factor of its own,
  one set for what fits the original context, one for what doesn't.
* Dynamic NTK: the base grows with the sequence, so that the slowest feature never turns further than in training.
* Qwen's form of it (Bai et al. 2023, "Qwen Technical Report", §2.3): the base grows each time the sequence has doubled.

Which set or base applies depends on how long a sequence is. It is each row's own length, never its batch's; a cached
sequence keeps what its prompt began with, because the keys in the cache have turned already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class YarnScaling:
    """YaRN.

    Attributes:
        factor: how much the slowest features are slowed.
        original_context: tokens of the context before extension.
        beta_fast, beta_slow: the ramp's ends, in turns per original context.
        truncate: the ramp's ends are whole features.
        attention_factor: what cosines and sines are multiplied by.
    """

    factor: float
    original_context: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    def key(self, length: int) -> int:
        """The same frequencies for every length."""
        return 0

    def frequencies(self, plain: torch.Tensor, theta: float, key: int) -> torch.Tensor:
        """(C/2,) plain frequencies → scaled ones."""
        width = 2 * len(plain)
        low, high = (self._feature(turns, theta, width) for turns in (self.beta_fast, self.beta_slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        ramp = (torch.arange(width // 2).float() - low) / (max(high - low, 0.001))
        slowed = ramp.clamp(0, 1)
        return plain / self.factor * slowed + plain * (1 - slowed)

    def _feature(self, turns: float, theta: float, width: int) -> float:
        """The feature that turns so often within the original context."""
        return width * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))


@dataclass(frozen=True, kw_only=True, slots=True)
class LongScaling:
    """LongRoPE.

    Attributes:
        short_factors, long_factors: C/2 divisors each.
        original_context: longest sequence that takes the short ones.
        attention_factor: what cosines and sines are multiplied by.
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_context: int
    attention_factor: float

    def key(self, length: int) -> int:
        """1 beyond the original context."""
        return int(length > self.original_context)

    def frequencies(self, plain: torch.Tensor, theta: float, key: int) -> torch.Tensor:
        """(C/2,) plain frequencies → scaled ones."""
        return plain / torch.tensor(self.long_factors if key else self.short_factors)


@dataclass(frozen=True, kw_only=True, slots=True)
class DynamicScaling:
    """Dynamic NTK.

    Attributes:
        factor: how much longer than the original context a sequence may become.
        original_context: longest sequence that turns as in training.
    """

    factor: float
    original_context: int

    @property
    def attention_factor(self) -> float:
        """Nothing is scaled."""
        return 1.0

    def key(self, length: int) -> int:
        """The length, from the original context on."""
        return max(length, self.original_context)

    def frequencies(self, plain: torch.Tensor, theta: float, key: int) -> torch.Tensor:
        """(C/2,) plain frequencies → scaled ones."""
        width = 2 * len(plain)
        grown = self.factor * key / self.original_context - (self.factor - 1)
        base = theta * grown ** (width / (width - 2))
        return 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.int64).float() / width)


@dataclass(frozen=True, kw_only=True, slots=True)
class DoublingScaling:
    """Dynamic NTK in steps: θ' = θ · α^(C/(C−2)), α = 2^(⌈log₂(length/context)⌉ + 1) − 1, 1 within the context.

    Attributes:
        original_context: longest sequence that turns as in training.
    """

    original_context: int

    @property
    def attention_factor(self) -> float:
        """Nothing is scaled."""
        return 1.0

    def key(self, length: int) -> int:
        """α."""
        if length <= self.original_context:
            return 1
        return 2 ** (math.ceil(math.log2(length / self.original_context)) + 1) - 1

    def frequencies(self, plain: torch.Tensor, theta: float, key: int) -> torch.Tensor:
        """(C/2,) plain frequencies → scaled ones."""
        if key == 1:
            return plain
        width = 2 * len(plain)
        base = theta * key ** (width / (width - 2))
        return 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.int64).float() / width)


RotaryScaling = YarnScaling | LongScaling | DynamicScaling | DoublingScaling


def yarn_attention_factor(factor: float, mscale: float | None = None, mscale_all: float | None = None) -> float:
    """YaRN's scale of cosines and sines (eq. 22), or DeepSeek's ratio of two where both are given."""

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    return scale(mscale) / scale(mscale_all) if mscale and mscale_all else scale(1.0)


def long_attention_factor(factor: float, original_context: int) -> float:
    """LongRoPE's scale of cosines and sines, as Phi-3 has it."""
    return math.sqrt(1 + math.log(factor) / math.log(original_context)) if factor > 1 else 1.0
