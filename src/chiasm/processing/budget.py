"""One budget of visual tokens for every tiler: `within(tiler, N)` gives at most N tokens a picture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.processing.tilers import AnyRes, Tiler


def within(tiler: Any, tokens: int) -> Tiler:
    """The same tiler with at most so many visual tokens a picture.

    Args:
        tiler: any tiler that counts tokens.
        tokens: the budget.

    Returns:
        A tiler whose every plan keeps to it: fewer tiles, fewer canvases, or a smaller picture. A tiler with one fixed
        count comes back as it is where that count fits.

    Raises:
        ConfigError: image_tokens_too_few, with the least that the family can do.
    """
    least = fewest(tiler)
    if tokens < least:
        raise ConfigError(
            "image_tokens_too_few",
            f"a budget of {tokens} visual tokens a picture; this model needs at least {least}",
            hint=f"--image-tokens {least}",
        )
    if hasattr(tiler, "within"):
        return tiler.within(tokens)
    if isinstance(tiler, AnyRes):
        kept = tuple(point for point in tiler.pinpoints if _most(replace(tiler, pinpoints=(point,))) <= tokens)
        return replace(tiler, pinpoints=kept)
    return tiler


def fewest(tiler: Any) -> int:
    """The smallest budget that a tiler can keep to whatever the picture."""
    if hasattr(tiler, "fewest_tokens"):
        return tiler.fewest_tokens
    if isinstance(tiler, AnyRes):
        return min(_most(replace(tiler, pinpoints=(point,))) for point in tiler.pinpoints)
    return tiler.plan((100, 100)).num_tokens


def _most(tiler: AnyRes) -> int:
    """Tokens of a picture that fills the one canvas."""
    height, width = tiler.pinpoints[0]
    return tiler.plan((width, height)).num_tokens
