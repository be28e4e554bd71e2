"""Activation functions by the names that published configurations use."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from chiasm.core.errors import ConfigError


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """CLIP's sigmoid approximation of GELU, x·σ(1.702x), any shape."""
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """The tanh approximation of GELU, any shape."""
    return F.gelu(x, approximate="tanh")


def squared_relu(x: torch.Tensor) -> torch.Tensor:
    """max(x, 0)² (So et al. 2021, "Primer", §4), any shape."""
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_new": gelu_tanh,
    "silu": F.silu,
    "swish": F.silu,
    "relu": F.relu,
    "relu6": F.relu6,
    "relu2": squared_relu,
}


def activation(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Look an activation up.

    Raises:
        ConfigError: `name` is not known; the known names are listed.
    """
    if name not in ACTIVATIONS:
        raise ConfigError("activation_unknown", f"activation {name!r} is not one of {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]
