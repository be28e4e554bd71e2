"""Constraints at work: which tokens may come next (llguidance's masks over our tokenizers)."""

from __future__ import annotations

from typing import Any

from chiasm.core.constraints import Constraint
from chiasm.generation.sampling import Matcher


class Grammars:
    """Constraints for one tokenizer.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def matcher(self, constraint: Constraint) -> Matcher:
        """Follow one reply."""
        raise NotImplementedError
