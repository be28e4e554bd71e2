"""Optimal transport by inexact proximal iterations, IPOT (Xie et al. 2019, "A Fast Proximal Point Method", alg. 1).

With G = exp(−C/β), T = 1 and σ = 1/m, repeat: Q = G ⊙ T;  δ = a / (Qσ);  σ = b / (Qᵀδ);  T = diag(δ) Q diag(σ).
The masses a and b are uniform over what counts. ViLT (Kim et al. 2021, §3.2) uses β = 0.5 and 50 rounds.
"""

from __future__ import annotations

import torch


@torch.no_grad()
def transport_plan(
    cost: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, *, beta: float = 0.5, rounds: int = 50
) -> torch.Tensor:
    """The cheapest way to move the rows' mass onto the columns.

    Args:
        cost: (B, N, M), at least 0.
        rows: (B, N) bool, True = counts; at least one a batch row.
        columns: (B, M) bool, True = counts; at least one a batch row.
        beta: weight of the proximal term.
        rounds: iterations.

    Returns:
        (B, N, M) plan, no gradient; rows sum to about 1/N, columns to 1/M, the uncounted to 0.
    """
    counted = rows[:, :, None] & columns[:, None, :]
    kernel = torch.exp(-cost.float() / beta) * counted  # (B, N, M)
    a = rows.float() / rows.sum(1, keepdim=True)  # (B, N)
    b = columns.float() / columns.sum(1, keepdim=True)  # (B, M)
    plan, sigma = counted.float(), b.clone()
    for _ in range(rounds):
        step = kernel * plan
        delta = a / torch.einsum("bnm,bm->bn", step, sigma).clamp(min=1e-30)
        sigma = b / torch.einsum("bnm,bn->bm", step, delta).clamp(min=1e-30)
        plan = delta[:, :, None] * step * sigma[:, None, :]
    return plan


def cosine_cost(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(B, N, D) and (B, M, D) → (B, N, M), one minus the cosine."""
    x, y = torch.nn.functional.normalize(x, dim=-1), torch.nn.functional.normalize(y, dim=-1)
    return 1 - x @ y.transpose(1, 2)
