"""Word–patch alignment (Kim et al. 2021, "ViLT", §3.2): words move to patches at the least cost, one minus cosine.

The plan comes from IPOT without a gradient; the loss is its cost for right pairs minus that for wrong ones.
"""

from __future__ import annotations

import torch

from chiasm.nn.transport import cosine_cost, transport_plan
from chiasm.objectives.precision import in_float32


def transport_costs(
    words: torch.Tensor, patches: torch.Tensor, real_words: torch.Tensor, real_patches: torch.Tensor
) -> torch.Tensor:
    """Cost of moving each text's words onto its picture's patches.

    Args:
        words: (B, T, D).
        patches: (B, P, D).
        real_words, real_patches: (B, T), (B, P) bool, True = counts.

    Returns:
        (B,).
    """
    cost = cosine_cost(words, patches)
    plan = transport_plan(cost.detach(), real_words, real_patches)
    return (plan * cost).sum((1, 2))


@in_float32
def word_patch_loss(
    words: torch.Tensor,
    patches: torch.Tensor,
    real_words: torch.Tensor,
    real_patches: torch.Tensor,
    belongs: torch.Tensor,
) -> torch.Tensor:
    """Right pairs cheap, wrong ones dear.

    Args:
        words, patches, real_words, real_patches: see `transport_costs`.
        belongs: (B,) bool, True = text and picture belong together.

    Returns:
        (Σ cost of right pairs − Σ cost of wrong ones) / B.
    """
    costs = transport_costs(words, patches, real_words, real_patches)
    return torch.where(belongs, costs, -costs).mean()
