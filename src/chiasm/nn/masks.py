"""The one mask builder. A mask is boolean, True = attend, broadcastable to (B, H, Q, S); None = attend to all.
Positions that are a bias on the scores (ALiBi, T5) turn it into numbers, −∞ = don't attend (`biased`).

Everything that attention must not see is said here: what is padding, what lies in the future. Where the answer is
"plain causal", the builder says so with `AttentionMask.causal`, because the kernels are faster without a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from chiasm.nn.cache import SlotStep


@dataclass(frozen=True, slots=True)
class Runs:
    """One packed row cut into runs of tokens that see only their own run.

    Attributes:
        shapes: (n, L) for each distinct length: n runs of L tokens, one kernel call.
        order: (P,) where the tokens of those runs stand in the row; None = already in that order.
        restore: (P,) the inverse of `order`.
    """

    shapes: tuple[tuple[int, int], ...]
    order: torch.Tensor | None = None
    restore: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class AttentionMask:
    """What a query may attend to.

    Attributes:
        allowed: (B or 1, 1, Q, S) bool, or None when `causal` says it all; or (B or 1, H or 1, Q, S) numbers that are
            added to the scores, see `biased`.
        causal: the square causal mask, with no padding, left to the kernel.
        runs: of one packed row, see `run_mask`; no mask over all pairs is ever made.
        lengths: each row attends to so many of its first keys, in a kernel call of its own, so that no bit of its
            result depends on the other rows; `allowed`, if there is one, counts back from a row's last key.
    """

    allowed: torch.Tensor | None = None
    causal: bool = False
    runs: Runs | None = None
    lengths: tuple[int, ...] | None = None

    def of_row(self, length: int) -> AttentionMask:
        """What is left of the mask for a row of `lengths` by itself."""
        return AttentionMask(None if self.allowed is None else self.allowed[..., -length:])

    def of_queries(self, keep: slice | torch.Tensor, queries: int) -> AttentionMask:
        """What is left of the mask for some of its queries.

        Args:
            keep: a slice of them, or one a row, (B,).
            queries: Q; the last of the S keys.

        Returns:
            The mask of (B or 1, H or 1, kept, S).
        """
        allowed = self.allowed
        if self.causal:
            if isinstance(keep, slice) and keep.indices(queries) == (queries - 1, queries, 1):
                return EVERYTHING
            device = None if isinstance(keep, slice) else keep.device
            allowed = torch.ones(queries, queries, dtype=torch.bool, device=device).tril()[None, None]
        if allowed is None or allowed.shape[2] == 1:
            return self
        if isinstance(keep, slice):
            return AttentionMask(allowed[:, :, keep])
        rows = torch.arange(len(keep), device=keep.device)
        return AttentionMask(allowed.expand(len(keep), -1, -1, -1)[rows, :, keep][:, :, None])


EVERYTHING = AttentionMask()


def real_tokens(attend: torch.Tensor | None) -> torch.Tensor | None:
    """None where a (B, S) padding mask hides nothing, so that no kernel has to read it."""
    return None if attend is None or bool(attend.all()) else attend


def attention_mask(
    attend: torch.Tensor | None, *, causal: bool, queries: int, keys: int, device: torch.device | None = None
) -> AttentionMask:
    """Build the mask of `queries` tokens that are the last of `keys`.

    Args:
        attend: (B, S) bool, True = a real token; None = no padding (`real_tokens` decides once a batch).
        causal: whether a token sees only itself and what stands before it.
        queries: Q, number of query tokens; they are the last Q of the S keys.
        keys: S.
        device: where the mask goes when `attend` is None.

    Returns:
        The mask. A padded query attends to itself, so that no row of the softmax is empty.
    """
    causal = causal and queries > 1
    if attend is None and (not causal or queries == keys):
        return AttentionMask(causal=causal)
    device = attend.device if attend is not None else device
    allowed = torch.ones(queries, keys, dtype=torch.bool, device=device)
    if causal:
        allowed = allowed.tril(keys - queries)
    if attend is None:
        return AttentionMask(allowed[None, None])
    own = torch.eye(queries, dtype=torch.bool, device=device)
    own = torch.nn.functional.pad(own, (keys - queries, 0))  # (Q, S)
    return AttentionMask(((allowed & attend[:, None, :]) | own)[:, None])  # (B, 1, Q, S)


def slot_mask(step: SlotStep, *, apart: bool) -> AttentionMask:
    """Mask of one new token a row, over rows of different length.

    Args:
        step: the rows.
        apart: compute each row by itself, see `AttentionMask.lengths`.

    Returns:
        The mask: each row sees its own keys and its new token.
    """
    if apart:
        return AttentionMask(lengths=tuple(length + 1 for length in step.lengths))
    if step.even:
        return EVERYTHING
    places = torch.arange(step.length + 1, device=step.where.device)
    return AttentionMask((places <= step.where[:, None])[:, None, None])  # (B, 1, 1, S)


def biased(mask: AttentionMask, bias: torch.Tensor) -> AttentionMask:
    """Add a bias to the scores of what a mask allows.

    Args:
        mask: what may be attended to.
        bias: (B or 1, H or 1, Q or 1, S), added to the scores before the softmax.

    Returns:
        The mask as numbers: the bias, and −∞ where nothing may be attended to.
    """
    allowed = mask.allowed
    if mask.lengths is not None:
        return AttentionMask(bias, lengths=mask.lengths)
    if mask.causal:
        keys = bias.shape[-1]
        allowed = torch.ones(keys, keys, dtype=torch.bool, device=bias.device).tril()
    return AttentionMask(bias if allowed is None else bias.masked_fill(~allowed, -torch.inf))


def query_text_mask(queries: int, attend: torch.Tensor, *, kind: str) -> AttentionMask:
    """Mask of learned queries and a text in one sequence (Li et al. 2023, "BLIP-2", fig. 2, right).

    Args:
        queries: Q, which stand first.
        attend: (B, T) bool, True = a real token of the text.
        kind: ``joint``: all see all; ``separate``: each side sees itself; ``causal``: queries see queries, a token
            sees the queries and the text up to itself.

    Returns:
        The mask over Q + T positions. Padding sees itself.
    """
    assert kind in ("joint", "separate", "causal"), kind
    total, device = queries + attend.shape[1], attend.device
    allowed = torch.ones(total, total, dtype=torch.bool, device=device)
    if kind != "joint":
        allowed[:queries, queries:] = False
    if kind == "separate":
        allowed[queries:, :queries] = False
    if kind == "causal":
        allowed[queries:, queries:] = allowed[queries:, queries:].tril()
    real = torch.nn.functional.pad(attend, (queries, 0), value=True)
    own = torch.eye(total, dtype=torch.bool, device=device)
    return AttentionMask(((allowed & real[:, None, :]) | own)[:, None])


def packed_mask(segments: torch.Tensor, trunks: torch.Tensor | None = None) -> AttentionMask:
    """Causal mask of rows that hold several texts, each blind to the others but for a beginning that some share.

    Args:
        segments: (B, T) int, the text that a token belongs to; below 0 = padding.
        trunks: (B, T) int, the one further segment that a token sees; None = segment 0, if the row has one.

    Returns:
        The mask: a token sees its trunk and its own text, up to itself. Padding sees itself.
    """
    length = segments.shape[1]
    own = segments[:, :, None] == segments[:, None, :]  # (B, T, T)
    shared = segments[:, None, :] == (0 if trunks is None else trunks[:, :, None])
    earlier = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return AttentionMask(((own | shared) & earlier)[:, None])


def run_mask(lengths: Sequence[int], device: torch.device | None = None) -> AttentionMask:
    """Mask of one packed row whose consecutive runs are blind to each other: pictures, or windows of pictures.

    Args:
        lengths: tokens of each run, in the row's order.
        device: where the row is.

    Returns:
        The mask, by index: runs of equal length share one kernel call, and cost grows with the sum of squares.
    """
    ranked = sorted(range(len(lengths)), key=lambda at: lengths[at])
    counted: dict[int, int] = {}
    for at in ranked:
        counted[lengths[at]] = counted.get(lengths[at], 0) + 1
    shapes = tuple((count, length) for length, count in counted.items())
    if ranked == list(range(len(lengths))):
        return AttentionMask(runs=Runs(shapes))
    sizes, lead = torch.tensor(lengths), torch.tensor(ranked)
    starts, ordered = sizes.cumsum(0) - sizes, sizes[lead]
    within = torch.arange(int(sizes.sum())) - (ordered.cumsum(0) - ordered).repeat_interleave(ordered)
    order = starts[lead].repeat_interleave(ordered) + within
    return AttentionMask(runs=Runs(shapes, order.to(device), order.argsort().to(device)))
