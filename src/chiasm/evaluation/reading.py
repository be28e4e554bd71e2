"""Reading outputs: from what a model gave to an answer, or None where it can't be read. Nothing is guessed."""

from __future__ import annotations

from typing import Any

from chiasm.evaluation.metrics.choices import LETTERS, parse_option
from chiasm.evaluation.metrics.yes_no import parse_yes_no
from chiasm.evaluation.protocol import Item


def said(output: Any, item: Item) -> str | None:
    """A reply as it is; white space alone is no answer."""
    return str(output).strip() or None


def yes_or_no(output: Any, item: Item) -> str | None:
    """``yes`` or ``no`` at the beginning of a reply."""
    return parse_yes_no(str(output))


def letter(output: Any, item: Item) -> str | None:
    """The letter of the option that a reply chooses."""
    return parse_option(str(output), item.options)


def likeliest(output: Any, item: Item) -> str | None:
    """The letter of the option whose tokens are likeliest on average; None on a tie."""
    means = [sum(tokens) / len(tokens) if tokens else float("-inf") for tokens in output]
    best = [at for at, mean in enumerate(means) if mean == max(means)]
    return LETTERS[best[0]] if len(best) == 1 else None


def boxes_in(output: Any, item: Item) -> list[float] | None:
    """The best box of a grounding."""
    boxes = output.get("boxes") or []
    return boxes[0] if boxes else None


def points_in(output: Any, item: Item) -> list[Any] | None:
    """All points of a grounding; of boxes, their middles."""
    points = output.get("points") or []
    middles = [[(box[0] + box[2]) / 2, (box[1] + box[3]) / 2] for box in output.get("boxes") or []]
    return points or middles or None


def spans_in(output: Any, item: Item) -> list[Any] | None:
    """All spans, best first."""
    return list(output) or None
