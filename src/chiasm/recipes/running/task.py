"""`Task`: what the loop needs of a run, whatever the run is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from chiasm.training.feed import Feed

Tell = Callable[[str], None]


@dataclass(kw_only=True, slots=True)
class Task:
    """One training.

    Attributes:
        module: whose parameters with `requires_grad` learn.
        objective: (module, fed) → scalars by name, ``loss`` among them; see `core.protocols.Objective`.
        feed: batches by number.
        finish: called with the run's folder after the last step, the averaged weights in place; writes the model.
        show: lines for people about the first batch.
    """

    module: nn.Module
    objective: Callable[[Any, Any], Any]
    feed: Feed
    finish: Callable[[Path], None]
    show: Callable[[], list[Any]] = field(default=list)
