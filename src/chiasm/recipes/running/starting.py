"""Weights to start from: which of another model's tensors a run takes over, and when that model is the wrong one."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import nn

from chiasm.core.errors import ConfigError
from chiasm.nn.positions import resize_grid
from chiasm.recipes.running.task import Tell


def take_over(module: nn.Module, other: nn.Module, source: str, tell: Tell, inherit: Sequence[str] = ("",)) -> None:
    """Copy the tensors that both modules have under one name, if a pattern is found in the name.

    A learned grid of positions is interpolated to the module's (Radford et al. 2021, §2.5, at 336 pixels).

    Args:
        module: takes.
        other: gives.
        source: what people call `other`.
        tell: takes a line on what was taken and what is new.
        inherit: regular expressions.

    Raises:
        ConfigError: a tensor of the same name has another shape, or no part of the module (`vision`, `language`, …) is
            found whole: a single tensor that fits by chance is no start.
    """
    own = module.state_dict()
    wanted = [name for name in own if any(re.search(pattern, name) for pattern in inherit)]
    theirs = other.state_dict()
    same = {name: _fitted(name, theirs[name], own[name], source) for name in wanted if name in theirs}
    parts: dict[str, list[bool]] = {}
    for name in wanted:
        parts.setdefault(name.partition(".")[0], []).append(name in same)
    if not any(all(found) for part, found in parts.items() if part not in own):  # a single tensor is no part
        shares = ", ".join(f"{sum(found)} of {len(found)} of {part}" for part, found in parts.items())
        what = f"{source} has no part of the model whole: {shares or f'inherit names 0 of {len(own)} tensors'}"
        raise ConfigError("init_mismatch", what, hint="another --set init_from, or --set inherit=PATTERN")
    module.load_state_dict(same, strict=False)
    left = sorted(set(own) - set(same))
    first = f"; new: {', '.join(left[:3])}{' …' if len(left) > 3 else ''}" if left else ""
    tell(f"started from {source}: {len(same)} of {len(own)} tensors{first}")


def _fitted(name: str, given: torch.Tensor, wanted: torch.Tensor, source: str) -> torch.Tensor:
    """`given` as it is, or, of a grid of positions, interpolated to as many as `wanted` has."""
    if given.shape == wanted.shape:
        return given
    if name.startswith("vision.") and name.endswith(".pos_embed") and given.shape[1:] == wanted.shape[1:]:
        sides = [math.isqrt(len(each)) for each in (given, wanted)]
        rest = {len(each) - side**2 for each, side in zip((given, wanted), sides, strict=True)}
        if rest in ({0}, {1}):  # a class token stands before the grid, or none
            first = rest.pop()
            grid = resize_grid(given[first:], (sides[0], sides[0]), (sides[1], sides[1]))
            return torch.cat((given[:first], grid))
    shapes = " × ".join(map(str, given.shape)), " × ".join(map(str, wanted.shape))
    what = f"{name} is {shapes[0] or 'a number'} in {source} and {shapes[1] or 'a number'} in the model"
    part = re.escape(name.partition(".")[0])
    raise ConfigError("init_mismatch", what, hint=f"--set 'inherit=^(?!{part})' starts {part} anew")
