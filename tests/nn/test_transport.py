"""IPOT against the algorithm written out with loops, and against what a transport plan must be."""

from __future__ import annotations

import math

import torch

from chiasm.nn.transport import cosine_cost, transport_plan


def by_the_book(cost: list[list[float]], beta: float, rounds: int) -> list[list[float]]:
    """Xie et al. 2019, algorithm 1, one inner round, uniform masses."""
    n, m = len(cost), len(cost[0])
    plan = [[1.0] * m for _ in range(n)]
    sigma = [1.0 / m] * m
    for _ in range(rounds):
        q = [[math.exp(-cost[i][j] / beta) * plan[i][j] for j in range(m)] for i in range(n)]
        delta = [1 / n / sum(q[i][j] * sigma[j] for j in range(m)) for i in range(n)]
        sigma = [1 / m / sum(q[i][j] * delta[i] for i in range(n)) for j in range(m)]
        plan = [[delta[i] * q[i][j] * sigma[j] for j in range(m)] for i in range(n)]
    return plan


def test_plan_equals_the_algorithm_with_padding() -> None:
    torch.manual_seed(0)
    cost = cosine_cost(torch.randn(2, 5, 8), torch.randn(2, 7, 8))
    rows, columns = torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 7, dtype=torch.bool)
    rows[1, 3:], columns[1, [0, 6]] = False, False
    plan = transport_plan(cost, rows, columns)
    for b in range(2):
        inside = plan[b][rows[b]][:, columns[b]]
        expected = torch.tensor(by_the_book(cost[b][rows[b]][:, columns[b]].tolist(), 0.5, 50))
        assert (inside - expected).abs().max() <= 1e-6
        assert abs(plan[b].sum() - inside.sum()) <= 1e-7
    # the last half-step fits the columns exactly, and the rounds have brought the rows there too
    assert (plan[0].sum(0) - 1 / 7).abs().max() <= 1e-6 and (plan[0].sum(1) - 1 / 5).abs().max() <= 1e-3


def test_a_permutation_is_found() -> None:
    order = torch.randperm(6, generator=torch.manual_seed(1))
    cost = 1 - torch.eye(6)[order][None]
    plan = transport_plan(cost, torch.ones(1, 6, dtype=torch.bool), torch.ones(1, 6, dtype=torch.bool))
    assert (plan[0].argmax(1) == order).all() and abs((plan * cost).sum()) <= 1e-4
