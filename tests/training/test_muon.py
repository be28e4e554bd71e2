"""Muon in float32 beside torch's in bfloat16."""

from __future__ import annotations

import pytest
import torch

from chiasm.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_singular_values_come_near_one(shape) -> None:
    torch.manual_seed(0)
    found = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert found.dtype == torch.float32 and found.min() > 0.6 and found.max() < 1.3


@pytest.mark.parametrize("adjust", ["match_rms_adamw", "original"])
def test_steps_are_torchs_to_the_precision_of_bfloat16(adjust) -> None:
    torch.manual_seed(1)
    start = [torch.randn(24, 40), torch.randn(40, 24)]
    ours, theirs = ([torch.nn.Parameter(w.clone()) for w in start] for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9, "adjust_lr_fn": adjust}
    optimizers = Muon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b, w in zip(ours, theirs, start, strict=True):
        moved = (a - w).norm()
        assert moved > 0.1 and (a - b).norm() < 0.02 * moved
    for a, b in zip(ours, theirs, strict=True):
        one, other = optimizers[0].state[a]["momentum_buffer"], optimizers[1].state[b]["momentum_buffer"]
        assert torch.equal(one, other)
