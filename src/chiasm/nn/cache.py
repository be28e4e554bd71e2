"""The key/value cache: `Cache`, preallocated once for sequences that run together, written in place, read as a view;
`SlotCache`, for sequences that come, grow and go by themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from chiasm.nn.masks import AttentionMask


class Cache:
    """Keys and values of every layer for B sequences.

    Args:
        num_layers: L.
        batch: B.
        num_kv_heads: K.
        capacity: most positions a sequence can take.
        head_dim: C.
        value_dim: width of the values; None = C.
        dtype, device: of the stored tensors.
    """

    def __init__(
        self,
        num_layers: int,
        batch: int,
        num_kv_heads: int,
        capacity: int,
        head_dim: int,
        *,
        value_dim: int | None = None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_layers, batch, num_kv_heads, capacity)
        self.keys = torch.empty((*shape, head_dim), dtype=dtype, device=device)
        self.values = torch.empty((*shape, head_dim if value_dim is None else value_dim), dtype=dtype, device=device)
        self.length = 0
        self.capacity = capacity
        self.prompts: torch.Tensor | None = None  # (B,) lengths, where rotary positions depend on them
        self._place = (-1, 0)  # the new positions that `_views` are of: start and count
        self._views: list[tuple[torch.Tensor, ...]] = []  # of each layer, where keys and values go; all so far

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store T new positions of one layer; the caller moves on with `advance` after the last layer.

        Args:
            layer: index of the layer.
            keys, values: (B, K, T, C).

        Returns:
            All keys and values so far, views (B, K, S, C).
        """
        if self._place != (self.length, keys.shape[2]):
            self._find(keys.shape[2])
        into_keys, into_values, all_keys, all_values = self._views[layer]
        into_keys.copy_(keys)
        into_values.copy_(values)
        return all_keys, all_values

    def _find(self, count: int) -> None:
        """Cut all layers at once: layer by layer, a new token would spend longer on views than on copies."""
        stop = self.length + count
        assert stop <= self.capacity, f"cache holds {self.capacity} positions, {stop} needed"
        stored = self.keys, self.values
        new = [by_layer(each.narrow(3, self.length, count)) for each in stored]
        self._views = list(zip(*new, *(by_layer(each.narrow(3, 0, stop)) for each in stored), strict=True))
        self._place = (self.length, count)

    def advance(self, count: int) -> None:
        """Count T positions as stored, in every layer."""
        self.length += count

    def select(self, rows: torch.Tensor) -> None:
        """Keep the sequences `rows` (any number, repeats allowed), in that order: beams, finished requests."""
        self._place = (-1, 0)
        self.keys = self.keys.index_select(1, rows)
        self.values = self.values.index_select(1, rows)
        if self.prompts is not None and len(self.prompts) > 1:  # a single one is every row's
            self.prompts = self.prompts.index_select(0, rows)

    def join(self, others: Sequence[Cache]) -> None:
        """Begin every sequence where the one of each of `others` is; those are equally long."""
        self.length = others[0].length
        for row, other in enumerate(others):
            self.keys[:, row, :, : self.length], self.values[:, row, :, : self.length] = other.part(0, 0, self.length)
        lengths = [other.prompts for other in others if other.prompts is not None]
        self.prompts = torch.cat(lengths) if lengths else None

    def part(self, row: int, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One sequence's positions [start, stop), two views (L, K, P, C)."""
        return self.keys[:, row, :, start:stop], self.values[:, row, :, start:stop]

    def kept(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of the one sequence's positions [start, stop), two tensors (L, K, P, C), for `resume`."""
        keys, values = self.part(0, start, stop)
        return keys.clone(), values.clone()

    def resume(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Go on with the one sequence by positions that `kept` or `part` gave, in place of reading them."""
        part = slice(self.length, self.length + keys.shape[2])
        self.keys[:, 0, :, part], self.values[:, 0, :, part] = keys, values
        self.length = part.stop


def by_layer(stored: torch.Tensor) -> Sequence[torch.Tensor]:
    """(L, …) → L views to write to."""
    if torch.is_grad_enabled():  # views that were cut together can't be written to
        return [stored.select(0, layer) for layer in range(len(stored))]
    return stored.unbind(0)


_GRAIN = 64  # positions are made room for in steps of so many


class SlotCache:
    """Keys and values of every layer for sequences of different length, each in a row of its own.

    The running sequences are rows 0, 1, …, without holes: when one leaves, the last takes its row. Memory grows with
    the longest and is given back when nobody is left.

    Args:
        num_layers: L.
        num_kv_heads: K.
        head_dim: C.
        value_dim: width of the values; None = C.
        dtype, device: of the stored tensors.
    """

    def __init__(
        self,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        value_dim: int | None = None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._shape = (num_layers, num_kv_heads)
        self._widths = (head_dim, head_dim if value_dim is None else value_dim)
        self._kind = (dtype, device)
        self.lengths: list[int] = []
        self.keys, self.values = self._tensors(0, 0)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.keys.nbytes + self.values.nbytes

    def admit(self, cache: Cache) -> int:
        """Take in the one sequence of `cache`; returns its row."""
        row, length = len(self.lengths), cache.length
        self.reserve(row + 1, length + 1)
        self.keys[:, row, :, :length] = cache.keys[:, 0, :, :length]
        self.values[:, row, :, :length] = cache.values[:, 0, :, :length]
        self.lengths.append(length)
        return row

    def leave(self, row: int) -> None:
        """Free a row; the last sequence moves into it."""
        last = len(self.lengths) - 1
        length = self.lengths[last]
        if row != last:
            self.keys[:, row, :, :length] = self.keys[:, last, :, :length]
            self.values[:, row, :, :length] = self.values[:, last, :, :length]
            self.lengths[row] = length
        del self.lengths[last]
        if not self.lengths:
            self.keys, self.values = self._tensors(0, 0)

    def reserve(self, rows: int, positions: int) -> None:
        """Make room for so many rows of so many positions."""
        old_rows, old_positions = self.keys.shape[1], self.keys.shape[3]
        if rows <= old_rows and positions <= old_positions:
            return
        if rows > old_rows:
            rows = max(rows, 2 * old_rows)
        if positions > old_positions:
            positions = -(-max(positions, old_positions * 5 // 4) // _GRAIN) * _GRAIN
        keys, values = self._tensors(max(rows, old_rows), max(positions, old_positions))
        keys[:, :old_rows, :, :old_positions], values[:, :old_rows, :, :old_positions] = self.keys, self.values
        self.keys, self.values = keys, values

    def _tensors(self, rows: int, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        (layers, heads), (dtype, device) = self._shape, self._kind
        # zeros: what no sequence has written is masked, and a masked NaN would still be a NaN
        first, second = (
            torch.zeros((layers, rows, heads, positions, width), dtype=dtype, device=device) for width in self._widths
        )
        return first, second


class SlotStep:
    """One more token for the rows [start, stop) of a `SlotCache`, seen by the layers as a `Cache`.

    Args:
        slots: whose rows; those beyond its sequences are company that nobody reads, one token long.
        start, stop: the rows.
    """

    def __init__(self, slots: SlotCache, start: int, stop: int) -> None:
        self._slots, self._start, self._stop = slots, start, stop
        self.prompts: torch.Tensor | None = None  # as in `Cache`
        running = slots.lengths[start:stop]
        self.lengths = running + [0] * (stop - start - len(running))
        self.length = max(self.lengths)
        slots.reserve(stop, self.length + 1)
        self.even = min(self.lengths) == self.length
        device = slots.keys.device
        self.where = torch.tensor(self.lengths, device=device)
        self._places = self.where[:, None, None, None]
        self._keys, self._values = (
            by_layer(each[:, start:stop, :, : self.length + 1]) for each in (slots.keys, slots.values)
        )

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Cache.append`, for T = 1: each row's token behind its own last one."""
        found = self._keys[layer], self._values[layer]
        for stored, new in zip(found, (keys, values), strict=True):
            if self.even:
                stored.narrow(2, self.length, 1).copy_(new)
            else:
                stored.scatter_(2, self._places.expand_as(new), new)
        return found

    def advance(self, count: int) -> None:
        """Count the token as stored, in every layer."""
        lengths = self._slots.lengths
        for row in range(self._start, min(self._stop, len(lengths))):
            lengths[row] += count


@dataclass(slots=True)
class JointStep:
    """One more token for R rows and the next T tokens of one prompt as one sequence of R + T tokens.

    A token alone costs what reading the weights costs; beside a prompt's tokens it costs next to nothing (Agrawal et
    al. 2023, "SARATHI", §4.2). What works token by token sees one sequence; attention sees the rows and the prompt,
    each with its own keys.

    Attributes:
        rows, prompt: their caches.
        masks: of the rows and of the prompt.
        prompts: as in `Cache`; positions that depend on it can't be joined.
    """

    rows: SlotStep
    prompt: Cache
    masks: tuple[AttentionMask, AttentionMask]
    prompts: torch.Tensor | None = None

    @property
    def length(self) -> int:
        """None that all tokens share: positions and masks must be given."""
        return 0

    def attend(
        self, attention: Callable[..., torch.Tensor], layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """Attend apart.

        Args:
            attention: (queries, keys, values, mask) → what they see.
            layer: of the caches, which the new keys and values are appended to.
            q, k, v: (1, H or K, R + T, C).

        Returns:
            (1, H, R + T, C).
        """
        count, (of_rows, of_prompt) = len(self.rows.lengths), self.masks
        first, second = q[:, :, :count].transpose(0, 2), q[:, :, count:]
        keys, values = (each[:, :, :count].transpose(0, 2) for each in (k, v))
        rows = attention(first, *self.rows.append(layer, keys, values), of_rows)
        prompt = attention(second, *self.prompt.append(layer, k[:, :, count:], v[:, :, count:]), of_prompt)
        return torch.cat((rows.transpose(0, 2), prompt), 2)

    def advance(self, count: int) -> None:
        """Count none yet: whoever is left with a failure must be able to begin the step again, see `settle`."""

    def settle(self, count: int) -> None:
        """Count a token a row and `count` of the prompt as stored, in every layer."""
        self.rows.advance(1)
        self.prompt.advance(count)


AnyCache = Cache | SlotStep
