"""The sheet of a curation: one HTML page with examples of every outcome, nothing loaded from anywhere, no script.

Captions come from strangers' data and from models, so every text is escaped. Equal decisions give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from chiasm.core.errors import ChiasmError
from chiasm.core.samples import Dataset
from chiasm.data.curation import Caption, Decision, Thresholds, count
from chiasm.processing.pictures import read_picture

SIDE = 200  # pixels of a thumbnail's longer side
_TITLES = {
    "synthetic": ("Rewritten", "the original caption is left out, the written one is kept"),
    "original": ("Kept", "the original caption alone is kept"),
    "both": ("Both", "the original caption and the written one are kept"),
    "neither": ("Rejected", "no caption reaches its threshold"),
    "failed": ("Could not be judged", "reported, and left out"),
}
_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}th,td{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #8884}
th:first-child,td:first-child{text-align:left}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:1rem}
.card{border:1px solid #8886;border-radius:8px;padding:.7rem;overflow-wrap:anywhere}
.card img{max-width:100%;max-height:200px;display:block;margin:0 auto .5rem}
.card p{margin:.3rem 0}.card small{opacity:.7}
.kept{border-left:5px solid #2a8;padding-left:.5rem}.out{border-left:5px solid #c44;padding-left:.5rem}
.out .words{text-decoration:line-through;opacity:.75}
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def sheet(dataset: Dataset, decisions: Sequence[Decision], thresholds: Thresholds, about: Mapping[str, Any],
          examples: int) -> str:  # fmt: skip
    """The page.

    Args:
        dataset: the data that was judged.
        decisions: of its rows.
        thresholds: what decided.
        about: name → value, told at the top.
        examples: most of each outcome.

    Returns:
        HTML.
    """
    counts = count(decisions)
    told = "".join(f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in about.items())
    numbers = "".join(
        f"<tr><td>{_TITLES[outcome][0]}: {_TITLES[outcome][1]}</td><td>{counts[outcome]:,}</td>"
        f"<td>{100 * counts[outcome] / max(len(decisions), 1):.1f} %</td></tr>"
        for outcome in _TITLES
    )
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>chiasm curate: {escape(dataset.name)}'
        f'</title><meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<style>{_STYLE}</style></head><body><h1>{escape(dataset.name)}, curated</h1><table>{told}</table>",
        f"<p>A caption is kept where its score, a {thresholds.by}, reaches {thresholds.original:g} (original) or "
        f"{thresholds.synthetic:g} (written).</p><table>{numbers}</table>",
    ]
    for outcome, (title, meaning) in _TITLES.items():
        chosen = spread([each for each in decisions if each.outcome == outcome], examples)
        if chosen:
            cards = "".join(_card(dataset, decision) for decision in chosen)
            parts.append(
                f"<h2>{title}</h2><p>{len(chosen)} of {counts[outcome]:,}: {meaning}.</p>"
                f'<div class="cards">{cards}</div>'
            )
    return "\n".join((*parts, "</body></html>\n"))


def spread(decisions: Sequence[Decision], most: int) -> list[Decision]:
    """At most so many, taken from everywhere by a digest of their place, in their own order."""

    def drawn(at: int) -> bytes:
        return hashlib.blake2b(f"{decisions[at].row} {decisions[at].place}".encode(), digest_size=8).digest()

    return [decisions[at] for at in sorted(sorted(range(len(decisions)), key=drawn)[:most])]


def _card(dataset: Dataset, decision: Decision) -> str:
    picture = "" if decision.row is None else _thumbnail(dataset, decision.row)
    words = "".join(map(_caption, decision.captions)) or (
        f"<p><b>{escape(decision.code)}</b><br>{escape(decision.reason)}</p>" if decision.code else "<p>no caption</p>"
    )
    return f'<div class="card">{picture}{words}<small>{escape(str(decision.place))}</small></div>'


def _caption(caption: Caption) -> str:
    mood = "kept" if caption.kept else "out"
    return (
        f'<p class="{mood}"><small>{caption.origin} · {caption.score:.3f}</small><br>'
        f'<span class="words">{escape(caption.text)}</span></p>'
    )


def _thumbnail(dataset: Dataset, row: int) -> str:
    try:
        picture = read_picture(next(dataset[row].conversation.images()).source).copy()
    except (ChiasmError, StopIteration):
        return ""
    picture.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}">'
