"""The loss of a run as a picture, drawn with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from chiasm.core.files import replacing

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 900, 480, 80, 44, 36, 20
INK, GRID, FAINT, LINE = (40, 40, 40), (228, 228, 228), (182, 204, 236), (28, 92, 188)


def plot_loss(points: Sequence[tuple[int, float]], path: Path, title: str = "") -> None:
    """Draw a loss curve: every step faintly, a running mean over it; the file is replaced at once.

    Args:
        points: (step, loss); those that aren't finite are left out.
        path: the PNG file.
        title: a line above.
    """
    good = [(step, loss) for step, loss in points if math.isfinite(loss)]
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((LEFT, 12), title, fill=INK)
    if good:
        _curve(pen, good)
    with replacing(path) as beside:
        picture.save(beside, format="PNG")


def _curve(pen: ImageDraw.ImageDraw, points: Sequence[tuple[int, float]]) -> None:
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    low, high = min(losses), max(losses)
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    low, high, last = low - pad, high + pad, max(steps[-1], steps[0] + 1)

    def place(step: int, loss: float) -> tuple[float, float]:
        across = (step - steps[0]) / (last - steps[0])
        up = (loss - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP)

    for tick in _ticks(low, high):
        _, y = place(steps[0], tick)
        pen.line((LEFT, y, WIDTH - RIGHT, y), fill=GRID)
        pen.text((LEFT - 8, y), f"{tick:.4g}", fill=INK, anchor="rm")
    for tick in _ticks(steps[0], last):
        x, _ = place(int(tick), low)
        pen.text((x, HEIGHT - BOTTOM + 8), f"{int(tick)}", fill=INK, anchor="ma")
    pen.text((WIDTH - RIGHT, HEIGHT - 14), "step", fill=INK, anchor="rm")
    pen.line([place(*point) for point in points], fill=FAINT, width=1)
    pen.line([place(step, mean) for step, mean in _smooth(steps, losses)], fill=LINE, width=2)


def _smooth(steps: Sequence[int], losses: Sequence[float]) -> list[tuple[int, float]]:
    """The running mean over the last fiftieth of the steps."""
    window = max(1, len(losses) // 50)
    sums, total = [], 0.0
    for at, loss in enumerate(losses):
        total += loss - (losses[at - window] if at >= window else 0.0)
        sums.append((steps[at], total / min(window, at + 1)))
    return sums


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers in an interval."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    size = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / size)
    return [size * number for number in range(first, math.floor(high / size) + 1)]
