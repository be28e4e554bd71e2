"""Charts as SVG text: lines over steps, points over a logarithmic axis. No package, no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#2266bb", "#cc4433", "#228855", "#aa7700", "#7744aa", "#117788", "#aa3377", "#555555")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 340, 64, 150, 34, 44
LETTER = 6.5  # pixels of a wide letter at the size of the names
Points = Sequence[tuple[float, float]]


def chart(series: Mapping[str, Points], title: str, x: str, y: str, *, log_x: bool = False, joined: bool = True) -> str:
    """Draw several series.

    Args:
        series: by name, (x, y) points; those that aren't finite, or not positive on a logarithmic axis, are left out.
        title, x, y: what stands above and at the axes.
        log_x: a logarithmic first axis.
        joined: lines instead of points.

    Returns:
        An `<svg>` element.
    """
    good = {name: _good(points, log_x) for name, points in series.items()}
    every = [point for points in good.values() for point in points]
    if not every:
        return ""
    xs, ys = [math.log10(p[0]) if log_x else p[0] for p in every], [p[1] for p in every]
    (x0, x1), (y0, y1) = _wide(min(xs), max(xs)), _wide(min(ys), max(ys))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = ((math.log10(point[0]) if log_x else point[0]) - x0) / (x1 - x0)
        up = (point[1] - y0) / (y1 - y0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    drawn = [_axes(title, x, y, (x0, x1), (y0, y1), log_x)]
    for number, (name, points) in enumerate(good.items()):
        colour, spots = COLOURS[number % len(COLOURS)], [place(point) for point in points]
        if joined:
            line = " ".join(f"{a:.1f},{b:.1f}" for a, b in spots)
            drawn.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        else:
            drawn += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="{colour}"/>' for a, b in spots]
        at = TOP + 16 * number
        drawn.append(f'<rect x="{WIDTH - RIGHT + 12}" y="{at}" width="10" height="10" fill="{colour}"/>')
        drawn.append(f'<text x="{WIDTH - RIGHT + 28}" y="{at + 9}">{escape(name)}</text>')
    width = WIDTH + max(0, math.ceil(LETTER * max(map(len, good))) + 34 - RIGHT)  # room for the longest name
    style = 'font-family="sans-serif" font-size="11" fill="currentColor"'
    return f'<svg viewBox="0 0 {width} {HEIGHT}" width="{width}" {style} role="img">{"".join(drawn)}</svg>'


def _axes(title: str, x: str, y: str, across: tuple[float, float], up: tuple[float, float], log_x: bool) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        f'<text x="{LEFT}" y="18" font-size="13" font-weight="600">{escape(title)}</text>',
        f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="currentColor" opacity=".5"/>',
        f'<text x="{right}" y="{HEIGHT - 8}" text-anchor="end">{escape(x)}</text>',
        f'<text x="6" y="{TOP - 4}">{escape(y)}</text>',
    ]
    for part in range(5):
        value = up[0] + part / 4 * (up[1] - up[0])
        at = bottom - part / 4 * (bottom - TOP)
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:.3g}</text>')
        value = across[0] + part / 4 * (across[1] - across[0])
        at = LEFT + part / 4 * (right - LEFT)
        told = 10**value if log_x else value
        parts.append(f'<text x="{at:.1f}" y="{bottom + 15}" text-anchor="middle">{told:.3g}</text>')
    return "".join(parts)


def _good(points: Points, log_x: bool) -> list[tuple[float, float]]:
    finite = [(a, b) for a, b in points if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x)]
    step = max(1, len(finite) // 400)  # a curve of more points is no finer on paper
    return finite[::step]


def _wide(low: float, high: float) -> tuple[float, float]:
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - pad, high + pad
