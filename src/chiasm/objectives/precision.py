"""Similarities and losses in float32, also where a step runs under autocast.

bfloat16 keeps three digits of a cosine; a temperature of 0.01 makes half a logit of what is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def in_float32(function: Callable[..., T]) -> Callable[..., T]:
    """The same function, without autocast and with its floating tensors in float32 where autocast is on."""

    @wraps(function)
    def exact(*args: Any, **kwargs: Any) -> T:
        kinds = {value.device.type for value in args if isinstance(value, torch.Tensor)}
        on = [kind for kind in kinds if torch.is_autocast_enabled(kind)]
        if not on:
            return function(*args, **kwargs)
        with torch.autocast(on[0], enabled=False):
            return function(*map(_float, args), **{name: _float(value) for name, value in kwargs.items()})

    return exact


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
