"""Building a module for its names and shapes alone: on the meta device, with nothing drawn at random.

Random initialisers on the meta device do nothing, but the first of them makes torch import some 800 modules of its
compiler: 1.1 s of processor time, which every load would pay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from chiasm.core.errors import ConfigError

MOST_STEPS = 50_000  # of torch, in building a model: about a second; the largest published one takes 14,000
_FILLS = frozenset(
    ("uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_")
)


class Buildable(Protocol):
    """A configuration."""

    def build(self) -> Any:
        """The module."""


class _NothingDrawn(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise ConfigError("config_value", f"a configuration that takes over {MOST_STEPS} steps to build")
        named = kwargs or {}
        if getattr(func, "__name__", "") in _FILLS:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def build_on_meta(config: Buildable) -> Any:
    """Build a configuration's module without memory for its weights.

    Args:
        config: anything with `build()`.

    Returns:
        The module, every tensor on the meta device.

    Raises:
        ConfigError: more parts than any model has.
    """
    with torch.device("meta"), _NothingDrawn():
        return config.build()


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name → shape of every entry of a module's state dict."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
