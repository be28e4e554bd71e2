"""The one mask builder. A mask is boolean, True = attend, broadcastable to (B, H, Q, S); None = attend to all.

Everything that attention must not see is said here: what is padding, what lies in the future. Where the
answer is "plain causal", the builder says so with `Causal`, because the kernels are faster without a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class AttentionMask:
    """What a query may attend to.

    Attributes:
        allowed: (B or 1, 1, Q, S) bool, or None when `causal` says it all.
        causal: the square causal mask, with no padding, left to the kernel.
    """

    allowed: torch.Tensor | None = None
    causal: bool = False


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


def packed_mask(segments: torch.Tensor) -> AttentionMask:
    """Causal mask of rows in which several texts follow one shared beginning, each blind to the others.

    Args:
        segments: (B, T) int, 0 = the shared beginning, k > 0 = the k-th text, below 0 = padding.

    Returns:
        The mask: a token sees the beginning and its own text, up to itself. Padding sees itself.
    """
    length = segments.shape[1]
    own, shared = segments[:, :, None] == segments[:, None, :], segments[:, None, :] == 0  # (B, T, T), (B, 1, T)
    earlier = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return AttentionMask(((own | shared) & earlier)[:, None])
