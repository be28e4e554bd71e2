"""Muon (Jordan et al. 2024) as torch has it, with a product that a processor can compute.

    B ← μB + (1 − μ)G,   U = NS₅((1 − μ)G + μB),   W ← (1 − ηλ)W − η·s·U,   s = 0.2 √max(rows, columns)
    (that factor: Liu et al. 2025, §2.2)
    NS: X ← aX + (bXXᵀ + c(XXᵀ)²)X, five times from X/‖X‖, which brings every singular value near 1

torch iterates in bfloat16, which most processors don't multiply: there a step took fifty times as long as in float32.
Here the iterations are in float32 on a processor and in bfloat16 elsewhere.
"""

from __future__ import annotations

import math
from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a, b, c (Jordan et al. 2024)
ITERATIONS = 5


class Muon(torch.optim.Muon):
    """Groups and state are torch's; only the step is another."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; see the module."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                buffer = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
                update = orthogonal(parameter.grad.lerp(buffer, momentum))
                rows, columns = parameter.shape
                matched = group["adjust_lr_fn"] == "match_rms_adamw"
                scale = 0.2 * math.sqrt(max(rows, columns)) if matched else math.sqrt(max(1, rows / columns))
                parameter.mul_(1 - rate * group["weight_decay"]).add_(update, alpha=-rate * scale)
        return loss


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """(rows, columns) → the same with singular values near 1."""
    a, b, c = COEFFICIENTS
    x = matrix.float() if matrix.device.type == "cpu" else matrix.bfloat16()
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)
