"""Contrastive losses against loops over pairs, values and gradients."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from chiasm.objectives.contrastive import info_nce, sigmoid_loss

Loss = Callable[..., torch.Tensor]


def slow_info_nce(x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    total = x.new_zeros(())
    for i in range(len(x)):
        for a, b, mates in ((x, y, same[i]), (y, x, same[:, i])):
            scores = torch.stack([scale * (a[i] * b[j]).sum() for j in range(len(b))])
            for j in range(len(b)):
                if mates[j]:
                    total = total - (scores[j] - torch.logsumexp(scores, 0)) / mates.sum()
    return total / (2 * len(x))


def slow_sigmoid(
    x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, same: torch.Tensor
) -> torch.Tensor:
    total = x.new_zeros(())
    for i in range(len(x)):
        for j in range(len(y)):
            sign = 1 if same[i, j] else -1
            total = total + torch.log(1 + torch.exp(-sign * (scale * (x[i] * y[j]).sum() + bias)))
    return total / len(x)


@pytest.fixture(params=["diagonal", "groups"])
def case(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    x, y = (F.normalize(torch.randn(5, 7, generator=generator, dtype=torch.float64), dim=-1) for _ in range(2))
    groups = torch.tensor([0, 1, 0, 2, 1])
    return x, y, groups[:, None] == groups if request.param == "groups" else None


@pytest.mark.parametrize(("fast", "slow", "names"), [(info_nce, slow_info_nce, 1), (sigmoid_loss, slow_sigmoid, 2)])
def test_equals_the_loop_with_gradients(
    fast: Loss, slow: Loss, names: int, case: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
) -> None:
    x, y, same = case
    pairs = torch.eye(5, dtype=torch.bool) if same is None else same
    results = []
    for loss, mask in ((fast, same), (slow, pairs)):
        leaves = [t.clone().requires_grad_() for t in (x, y, *torch.tensor([7.0, -2.0], dtype=torch.float64)[:names])]
        value = loss(*leaves, same=mask)
        results.append((value, *torch.autograd.grad(value, leaves)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_known_values() -> None:
    same = torch.ones(4, 3) / math.sqrt(3)  # everything alike: chance
    assert info_nce(same, same, 10.0).item() == pytest.approx(math.log(4))
    assert sigmoid_loss(same, same, 0.0, 0.0).item() == pytest.approx(4 * math.log(2))
    apart = torch.eye(4)
    assert info_nce(apart, apart, 100.0).item() == pytest.approx(0.0, abs=1e-6)
    assert sigmoid_loss(apart, apart, 200.0, -100.0).item() == pytest.approx(0.0, abs=1e-6)
