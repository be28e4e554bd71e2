"""Matching with hard negatives of the same batch (ALBEF, §3.2; BLIP, §3.2).

For each picture a wrong text is drawn in proportion to how alike they are, and for each text a wrong picture; a
two-class head tells the B right pairs from the 2B wrong ones.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from chiasm.core.errors import DataError
from chiasm.core.texts import TextStates


@torch.no_grad()
def hard_negatives(similarity: torch.Tensor, floor: float = 0.0) -> torch.Tensor:
    """For each row, another row's partner, drawn by the softmax of the similarities.

    Args:
        similarity: (B, B) over the temperature; the diagonal is the right pairs.
        floor: added to every weight, so that no partner is impossible (1e-4 in BLIP's code).

    Returns:
        (B,) column numbers, never the row's own.

    Raises:
        DataError: a batch of one has no negative.
    """
    if len(similarity) < 2:
        raise DataError("batch_of_one", f"a batch of {len(similarity)} pair has no wrong pairs; at least 2 are needed")
    weights = similarity.float().softmax(1) + floor
    own = torch.eye(len(weights), dtype=torch.bool, device=weights.device)
    weights = weights.masked_fill(own, 0.0)
    # a row so sure of itself that all others round to nothing draws among them evenly
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, (~own).float())
    return torch.multinomial(weights, 1)[:, 0]


def matching_loss(
    module: Any,
    texts: TextStates,
    images: torch.Tensor,
    to_texts: torch.Tensor,
    to_images: torch.Tensor,
    floor: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tell right pairs from hard wrong ones.

    Args:
        module: `match_scores(texts, images)` gives (B, 2).
        texts: B texts.
        images: (B, P, D) states of their pictures.
        to_texts, to_images: (B, B) similarities over the temperature, pictures to texts and texts to pictures.
        floor: see `hard_negatives`.

    Returns:
        The mean loss over 3B pairs, and the share told right.
    """
    other_images, other_texts = hard_negatives(to_images, floor), hard_negatives(to_texts, floor)
    count = len(images)
    rows = torch.arange(count, device=images.device)
    chosen_texts, chosen_images = torch.cat((rows, rows, other_texts)), torch.cat((rows, other_images, rows))
    scores = module.match_scores(texts.take(chosen_texts), images[chosen_images])
    labels = torch.cat((torch.ones_like(rows), torch.zeros_like(rows), torch.zeros_like(rows)))
    return F.cross_entropy(scores.float(), labels), (scores.argmax(1) == labels).float().mean()
