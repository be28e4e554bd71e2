"""Masked words (Devlin et al. 2019, §3.1): 15 % are asked for; of those 80 % are masked, 10 % swapped, 10 % kept.

Whole words (Kim et al. 2021, "ViLT", §3.2): all pieces of a word are asked for together, so that none gives it away.
"""

from __future__ import annotations

import torch

IGNORED = -100


def mask_words(
    ids: torch.Tensor,
    maskable: torch.Tensor,
    *,
    mask_id: int,
    vocab_size: int,
    share: float = 0.15,
    starts: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hide some words.

    Args:
        ids: (B, T).
        maskable: (B, T) bool, True = a word's piece; padding and control tokens are none.
        mask_id: what stands for a hidden piece.
        vocab_size: V, what a swapped piece is drawn from.
        share: probability that a piece (or a whole word) is asked for.
        starts: (B, T) bool, True = a word's first piece; None = every piece by itself.

    Returns:
        (B, T) ids with some hidden, (B, T) labels, -100 where nothing is asked.
    """
    shape, device = ids.shape, ids.device
    starts = torch.ones(shape, dtype=torch.bool, device=device) if starts is None else starts
    word = (starts | ~maskable).cumsum(1) - 1  # (B, T) number of the word that each piece belongs to
    word = word.clamp(min=0)
    draw, kind = torch.rand(shape, device=device).gather(1, word), torch.rand(shape, device=device).gather(1, word)
    asked = maskable & (draw < share)
    hidden = ids.masked_fill(asked & (kind < 0.8), mask_id)
    swapped = asked & (kind >= 0.8) & (kind < 0.9)
    hidden = torch.where(swapped, torch.randint_like(ids, vocab_size), hidden)
    return hidden, ids.masked_fill(~asked, IGNORED)
