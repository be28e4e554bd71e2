"""Parameter groups, the state of optimizers by parameter name, and the moving average of weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from chiasm.core.errors import ConfigError
from chiasm.training.config import Group, OptimizerConfig
from chiasm.training.world import is_shard

EMBEDDING = re.compile(r"embed|position|token|probe|queries|latents")


def make_optimizers(
    named: Mapping[str, nn.Parameter], groups: Sequence[Group], config: OptimizerConfig
) -> list[torch.optim.Optimizer]:
    """The optimizers of all parameters: matrices decay, vectors don't.

    Args:
        named: trainable parameters.
        groups: the first whose pattern is found in a name takes it.
        config: which optimizer.

    Raises:
        ConfigError: a parameter matches no group.
    """
    members: dict[tuple[Group, bool, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        group = next((group for group in groups if re.search(group.pattern, name)), None)
        if group is None:
            patterns = ", ".join(repr(group.pattern) for group in groups)
            raise ConfigError(
                "parameter_ungrouped",
                f"parameter {name} matches none of {patterns}",
                hint="a last group with an empty pattern",
            )
        inner = parameter.ndim == 2 and not EMBEDDING.search(name)
        members.setdefault((group, parameter.ndim > 1, inner, is_shard(parameter)), []).append(parameter)
    return config.build(
        [
            {
                "params": parameters,
                "lr": group.learning_rate,
                "weight_decay": group.weight_decay if decays else 0.0,
                "matrices": inner,
            }
            for (group, decays, inner, _), parameters in members.items()
        ]
    )


def optimizer_state(
    named: Mapping[str, nn.Parameter], optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, torch.Tensor]:
    """What the optimizers remember, as `<parameter>/<what>`."""
    found = {}
    for name, parameter in named.items():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                found[f"{name}/{key}"] = value if isinstance(value, torch.Tensor) else torch.tensor(value)
    return found


def load_optimizer_state(
    named: Mapping[str, nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
    state: Mapping[str, torch.Tensor],
    layout: Any,
) -> None:
    """The inverse of `optimizer_state`.

    Args:
        named, optimizers: as they were.
        state: what was stored.
        layout: (whole tensor, parameter) → the tensor as this process holds it.
    """
    owners = {id(p): optimizer for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    held: dict[str, dict[str, torch.Tensor]] = {}
    for full, value in state.items():
        name, _, key = full.rpartition("/")
        held.setdefault(name, {})[key] = value
    for name, values in held.items():
        parameter = named[name]
        owners[id(parameter)].state[parameter] = {
            key: layout(value, parameter) if value.shape == parameter.shape and value.ndim else value
            for key, value in values.items()
        }


class Average:
    """The exponential moving average of parameters: a ← d·a + (1 − d)·w after every step.

    Args:
        named: the parameters.
        decay: d.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.values = {name: parameter.detach().clone() for name, parameter in named.items()}

    @torch.no_grad()
    def update(self, named: Mapping[str, nn.Parameter]) -> None:
        """One step."""
        for name, parameter in named.items():
            self.values[name].lerp_(parameter, 1 - self.decay)

    @torch.no_grad()
    def place(self, named: Mapping[str, nn.Parameter]) -> None:
        """Put the averages into the parameters."""
        for name, parameter in named.items():
            parameter.copy_(self.values[name])
