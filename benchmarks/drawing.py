"""Ratios as bars: ``python benchmarks/drawing.py docs/performance.json docs/performance.svg``.

The JSON file is what `benchmarks/inference.py --record` keeps: the newest figure of every row. Bars are ratios of
processor time to transformers' in float32; the line is equality.
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

ROW, LEFT, SCALE = 22, 290, 110  # pixels: a row's height, the names' width, one unit of the ratio


def svg(rows: dict[str, Any]) -> str:
    """Bars of recorded rows, as an SVG document that follows the reader's light or dark theme."""
    most = max(row["processor_time_ratio"] for row in rows.values())
    width, height = int(LEFT + SCALE * most + 70), ROW * len(rows) + 40
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12">',
        "<style>text{fill:#222}.bar{fill:#3a6ea5}.one{stroke:#888}@media(prefers-color-scheme:dark)"
        "{text{fill:#ddd}.bar{fill:#7fb0e0}}</style>",
    ]
    for at, (name, row) in enumerate(rows.items()):
        top, ratio = 10 + ROW * at, row["processor_time_ratio"]
        lines += [
            f'<text x="{LEFT - 8}" y="{top + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="bar" x="{LEFT}" y="{top + 2}" width="{SCALE * ratio:.1f}" height="{ROW - 6}"/>',
            f'<text x="{LEFT + SCALE * ratio + 5:.1f}" y="{top + 14}">{ratio:.2f}×</text>',
        ]
    bottom = 10 + ROW * len(rows)
    lines += [
        f'<line class="one" x1="{LEFT + SCALE}" x2="{LEFT + SCALE}" y1="6" y2="{bottom}" stroke-dasharray="4 3"/>',
        f'<text x="{LEFT + SCALE}" y="{bottom + 16}" text-anchor="middle">transformers, float32</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    recorded = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(svg(recorded["rows"]), encoding="utf-8")
