"""`TextStates`: texts that a tower has read by themselves, on their way to being read with a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class TextStates:
    """B texts.

    Attributes:
        ids: (B, T).
        attend: (B, T) bool, True = a real token; None = no padding.
        states: (B, T, D) of the text alone.
    """

    ids: torch.Tensor
    attend: torch.Tensor | None
    states: torch.Tensor

    def take(self, rows: torch.Tensor) -> TextStates:
        """The texts of (B′,) rows, in that order."""
        return TextStates(self.ids[rows], None if self.attend is None else self.attend[rows], self.states[rows])
