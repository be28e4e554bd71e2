"""The guard: a step that isn't finite, or whose loss jumps, is skipped, counted and named."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.training.config import Guard


class Watch:
    """The guard at work; its memory is part of a checkpoint."""

    def __init__(self, config: Guard) -> None:
        self.config = config
        self.losses: list[float] = []
        self.skipped = 0

    def trouble(self, loss: float, norm: float) -> str | None:
        """Why a step must be skipped; None when it's good, and then its loss is remembered."""
        if not math.isfinite(loss) or not math.isfinite(norm):
            return f"loss {loss}, gradient norm {norm}"
        spike, seen = self.config.spike, self.losses
        if spike is not None and len(seen) >= self.config.window:
            mean, deviation = statistics.fmean(seen), statistics.pstdev(seen)
            if loss > mean + spike * max(deviation, 1e-12):
                return f"loss {loss:.4g}, {spike:g} deviations above the mean {mean:.4g} of {len(seen)} steps"
        self.losses = [*seen, loss][-self.config.window :] if spike is not None else []
        return None

    def skip(self, step: int, why: str, keys: Sequence[str]) -> None:
        """Count a skipped step.

        Raises:
            ConfigError: too many were skipped; the samples of the last one are named.
        """
        self.skipped += 1
        if self.skipped > self.config.most_skipped:
            named = f"; its samples: {', '.join(keys[:8])}{' …' if len(keys) > 8 else ''}" if keys else ""
            raise ConfigError(
                "loss_not_finite",
                f"step {step}: {why}; {self.skipped} steps skipped, {self.config.most_skipped} allowed{named}",
                hint="a lower learning rate, or chiasm data check on the samples named in log.jsonl",
            )

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        return {"skipped": self.skipped, "losses": [loss.hex() for loss in self.losses]}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.skipped = int(state["skipped"])
        self.losses = [float.fromhex(loss) for loss in state["losses"]]
