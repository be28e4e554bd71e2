"""Whether the bits of a reply depend on how many others are written with it, tried out on the module itself.

A matrix product chooses its kernel, and with it the order of its sums, by its shape, not by its numbers. So it is
enough to write random tokens in every number of rows and to compare bits: where the rows of `n` and of all larger
numbers agree, in any order and beside any others, `n` rows of company make every reply independent of its neighbours.
Mixtures of experts are the exception: there the numbers decide the shapes, and the module says so (`mixes_tokens`).
"""

from __future__ import annotations

import torch

from chiasm.core.protocols import Slotted


@torch.inference_mode()
def company_needed(module: Slotted, rows: int) -> int | None:
    """How many rows, real ones and company, a step needs at least so that its rows don't depend on their number.

    Args:
        module: with `write`; attention computes each row by itself.
        rows: most rows of a step.

    Returns:
        The least number; None where even the largest batch mixes its rows, so that each must be written alone.
    """
    if any(getattr(part, "mixes_tokens", False) for part in module.modules()):  # type: ignore[attr-defined]
        return None
    source = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 64, (rows,), generator=source)
    whole = _written(module, tokens)
    least = None
    for count in range(rows, 0, -1):
        if not all(_agrees(module, tokens, whole, order[:count]) for order in _orders(rows, source)):
            break
        least = count
    return least


def _orders(rows: int, source: torch.Generator) -> list[torch.Tensor]:
    straight = torch.arange(rows)
    return [straight, straight.flip(0), *(torch.randperm(rows, generator=source) for _ in range(2))]


def _agrees(module: Slotted, tokens: torch.Tensor, whole: torch.Tensor, order: torch.Tensor) -> bool:
    return torch.equal(_written(module, tokens[order]), whole[order])


def _written(module: Slotted, tokens: torch.Tensor) -> torch.Tensor:
    slots = module.new_slots()
    device = next(module.parameters()).device  # type: ignore[attr-defined]
    return module.write(tokens.to(device), slots, 0, apart=True).cpu()
