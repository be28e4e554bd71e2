"""Floating-point operations of a computation, from the shapes of its products.

Counts what PyTorch's functions are called with: 2·n·k·m for a product of (n, k) and (k, m), convolutions and attention
likewise, element-wise work not at all (as papers count). For training, an operand that needs a gradient costs one more
product of the same size, so frozen parts cost what they cost. Nothing is measured: on the meta device it is free.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class FlopCounter(TorchFunctionMode):
    """Counts while it is entered.

    Attributes:
        forward: operations of the forward pass.
        backward: operations that a backward pass through it would take.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward, self.backward = 0, 0

    @property
    def total(self) -> int:
        """Forward and backward."""
        return self.forward + self.backward

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function and count it by its name."""
        result = func(*args, **(kwargs or {}))
        rule = _RULES.get(func)
        if rule is not None:
            operations, operands = rule(result, *args, **(kwargs or {}))
            self.forward += operations
            if torch.is_grad_enabled():
                self.backward += operations * sum(operand.requires_grad for operand in operands)
        return result


def count_flops(run: Callable[[], Any], *, training: bool = False) -> int:
    """Operations of one call.

    Args:
        run: what is called; without `training` it runs without gradients.
        training: count the backward pass, too.
    """
    counter = FlopCounter()
    with torch.set_grad_enabled(training), counter:
        run()
    return counter.total


Counted = tuple[int, tuple[torch.Tensor, ...]]


def _linear(result: torch.Tensor, input: torch.Tensor, weight: torch.Tensor, bias: Any = None) -> Counted:
    return 2 * result.numel() * weight.shape[1], (input, weight)


def _matmul(result: torch.Tensor, input: torch.Tensor, other: torch.Tensor, **_: Any) -> Counted:
    return 2 * result.numel() * input.shape[-1], (input, other)


def _reflected(result: torch.Tensor, input: torch.Tensor, other: torch.Tensor) -> Counted:
    return _matmul(result, other, input)


def _added(result: torch.Tensor, bias: Any, input: torch.Tensor, other: torch.Tensor, **_: Any) -> Counted:
    return _matmul(result, input, other)


def _convolution(result: torch.Tensor, input: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> Counted:
    return 2 * result.numel() * math.prod(weight.shape[1:]), (input, weight)


def _transposed(result: torch.Tensor, input: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> Counted:
    return 2 * input.numel() * math.prod(weight.shape[1:]), (input, weight)


def _attention(
    result: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> Counted:
    """Both products over all pairs; causal masks save nothing in this count. Their costs are averaged over operands."""
    rows = math.prod(query.shape[:-1])
    return 2 * rows * key.shape[-2] * (query.shape[-1] + value.shape[-1]), _pairs(query, key, value)


def _pairs(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of the four products that a backward pass can take, each worth half of the forward pass, those that it takes."""
    needs = [each for each in (query, key, value) if each.requires_grad]
    return (needs[0], needs[0]) if len(needs) > 1 else tuple(needs)


def _einsum(result: torch.Tensor, equation: Any, *operands: Any) -> Counted:
    if isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) != 2:
        return 0, ()
    sizes: dict[str, int] = {}
    for names, operand in zip(equation.split("->")[0].replace(" ", "").split(","), operands, strict=True):
        if "." in names:
            return 0, ()
        sizes |= dict(zip(names, operand.shape, strict=True))
    return 2 * math.prod(sizes.values()), operands


_RULES: dict[Any, Callable[..., Counted]] = {
    F.linear: _linear,
    torch.matmul: _matmul,
    torch.Tensor.matmul: _matmul,
    torch.Tensor.__matmul__: _matmul,
    torch.Tensor.__rmatmul__: _reflected,
    torch.mm: _matmul,
    torch.Tensor.mm: _matmul,
    torch.bmm: _matmul,
    torch.Tensor.bmm: _matmul,
    torch.addmm: _added,
    torch.baddbmm: _added,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    F.conv_transpose2d: _transposed,
    F.scaled_dot_product_attention: _attention,
    torch.einsum: _einsum,
}
