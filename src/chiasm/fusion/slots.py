"""Running replies of spliced models in one cache: prompts that are read in parts, and rows that come and go.

A prompt is read by itself, part by part, into a cache of its own; what it has read up to a point may be kept and given
to another prompt that begins alike. Once read, it moves into a row, and one step writes a token for all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from chiasm.nn.cache import Cache, SlotCache, SlotStep


@dataclass(frozen=True, slots=True)
class Part:
    """What a model keeps of P tokens of a prompt, which mean something only behind those that were before them.

    Attributes:
        keys, values: (L, K, P, C).
    """

    keys: torch.Tensor
    values: torch.Tensor

    @property
    def length(self) -> int:
        """P."""
        return self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.keys.nbytes + self.values.nbytes


@dataclass(slots=True)
class SplicedPrompt:
    """One prompt on its way into the cache.

    Attributes:
        embeds: (1, T, D), with every picture that is still to be read.
        positions: (1, T), or (3, 1, T) for M-RoPE.
        route: (1, T) bool, see `SplicedLM.route`; None = none.
        cache: the T positions' keys and values, as far as they are read.
    """

    embeds: torch.Tensor
    positions: torch.Tensor
    route: torch.Tensor | None
    cache: Cache

    @property
    def length(self) -> int:
        """T."""
        return self.embeds.shape[1]

    @property
    def read(self) -> int:
        """How many tokens are read."""
        return self.cache.length

    def keep(self, start: int, stop: int) -> Part:
        """A copy of what is read of the tokens [start, stop)."""
        return Part(*self.cache.kept(start, stop))


def next_tokens(
    prompts: Sequence[SplicedPrompt], counts: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The next tokens of some prompts, side by side.

    Args:
        prompts: read equally far.
        counts: tokens of each.

    Returns:
        (B, T, D) embeddings, (B, T) or (3, B, T) positions and (B, T) routes or None, padded on the right, where a
        causal model's real tokens don't see the padding.
    """
    start, longest = prompts[0].read, max(counts)
    parts = [
        (prompt, slice(start, start + count), longest - count) for prompt, count in zip(prompts, counts, strict=True)
    ]
    embeds = torch.cat([F.pad(prompt.embeds[:, part], (0, 0, 0, rest)) for prompt, part, rest in parts])
    positions = torch.cat([F.pad(prompt.positions[..., part], (0, rest)) for prompt, part, rest in parts], -2)
    routes = [F.pad(prompt.route[:, part], (0, rest)) for prompt, part, rest in parts if prompt.route is not None]
    return embeds, positions, torch.cat(routes) if routes else None


@dataclass(frozen=True, slots=True)
class RowStep:
    """Some rows' next step: their cache as the layers see it, and (B, 1) their positions."""

    cache: SlotStep
    positions: torch.Tensor


class SplicedSlots:
    """The running replies: row by row their keys, values, next positions, and where their prompts ended.

    Args:
        cache: empty.
    """

    def __init__(self, cache: SlotCache) -> None:
        self.cache = cache
        self._next: list[int] = []
        self._prompts: list[int] = []

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.cache.nbytes

    def admit(self, prompt: SplicedPrompt) -> None:
        """A prompt that is read becomes the last row."""
        self.cache.admit(prompt.cache)
        self._next.append(int(prompt.positions.max()) + 1)
        self._prompts.append(self._next[-1])

    def leave(self, row: int) -> None:
        """Free a row; the last one moves into it."""
        self.cache.leave(row)
        for each in (self._next, self._prompts):
            each[row] = each[-1]
            del each[-1]

    def step(self, start: int, stop: int) -> RowStep:
        """One more token for the rows [start, stop); those beyond the running ones are company."""
        cache = SlotStep(self.cache, start, stop)
        company = [0] * (stop - start - len(self._next[start:stop]))
        device = cache.where.device
        cache.prompts = torch.tensor(self._prompts[start:stop] + company, device=device)
        return RowStep(cache, torch.tensor(self._next[start:stop] + company, device=device)[:, None])

    def advance(self, start: int, count: int) -> None:
        """Count a token for `count` rows."""
        for row in range(start, min(start + count, len(self._next))):
            self._next[row] += 1
