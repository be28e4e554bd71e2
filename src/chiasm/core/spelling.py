"""The nearest known name to one that isn't known."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str]) -> str:
    """The known name that is most like `name`; there is always one where any is known.

    Args:
        name: what was given.
        known: what there is.

    Returns:
        One of `known`, or an empty string where that is empty.
    """
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return found[0] if found else ""
