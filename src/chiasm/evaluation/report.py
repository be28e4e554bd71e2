"""The report: one HTML page with everything in it, nothing loaded from anywhere, no script.

Every text is escaped: questions, replies and names come from data and models, and either may be hostile. Equal
results give equal bytes: no clock, no timing, no path.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from chiasm.evaluation.table import notes

CARDS = 24
_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.5rem 0 1rem}
th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #8884}
th:first-child,td:first-child{text-align:left}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:1rem}
.card{border:1px solid #8886;border-radius:8px;padding:.7rem;overflow-wrap:anywhere}
.card svg,.card img{max-width:100%;height:auto;display:block;margin-bottom:.4rem}
.right{border-left:6px solid #2a8}.wrong{border-left:6px solid #c44}.unread{border-left:6px solid #c90}
dt{font-weight:600;float:left;clear:left;width:6rem}dd{margin:0 0 0 6.5rem;white-space:pre-wrap}
.verdict{font-size:1.1rem;font-weight:600}
pre{overflow:auto;max-height:24rem;background:#8881;padding:.6rem}
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(results: Mapping[str, Any], cards: Mapping[str, Sequence[Mapping[str, Any]]], manifest_text: str) -> str:
    """The whole report.

    Args:
        results: the results file.
        cards: for each task, samples to show: ``question``, ``reply``, ``answer``, ``references``, ``value``,
            ``pictures`` (PNG bytes as the model saw them) and ``marks`` (places to draw; see `_marks`).
        manifest_text: the manifest, as it stands in its file.

    Returns:
        HTML.
    """
    name = escape(str(results["config"].get("model", "")))
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>chiasm eval: {name}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<style>{_STYLE}</style></head><body><h1>{name}</h1>",
        "<p>Each score stands beside three controls: <b>blind</b>, the same model with the mean of all pictures in "
        "place of the picture; <b>swapped</b>, with another sample's picture; <b>prior</b>, the most frequent answer. "
        "<b>Gain</b> is the score less the blind one, on the same samples. Intervals hold 95 %.</p>",
    ]
    for task, told in results["chiasm"].items():
        parts.append(_task(task, results["configs"][task]["description"], told, cards.get(task, ())))
    if results["skipped"]:
        rows = "".join(f"<li>{escape(task)}: {escape(why)}</li>" for task, why in results["skipped"].items())
        parts.append(f"<h2>Skipped</h2><ul>{rows}</ul>")
    parts.append(f"<h2>Manifest</h2><pre>{escape(manifest_text)}</pre></body></html>\n")
    return "\n".join(parts)


def _task(name: str, about: str, told: Mapping[str, Any], cards: Sequence[Mapping[str, Any]]) -> str:
    parts = [f"<h2>{escape(name)}</h2><p>{escape(about)}</p>", f'<p class="verdict">{escape(told["verdict"])}</p>']
    parts.append(_figures(told))
    parts += [f"<p>{escape(note)}</p>" for note in notes(told)]
    if told["kinds"]:
        parts.append(_kinds(told))
    for title, rows in (("Invalid samples", told["invalid"]), ("Rows that can't be used", told["bad"])):
        if rows:
            lines = "".join(
                f"<tr><td>{escape(str(row['row']))}</td><td>{escape(row['code'])}</td><td>{escape(row['reason'])}</td></tr>"
                for row in rows[:50]
            )
            parts.append(f"<details><summary>{title}: {len(rows)}</summary><table>{lines}</table></details>")
    if cards:
        parts.append(f'<div class="cards">{"".join(map(_card, cards))}</div>')
    return "\n".join(parts)


def _figures(told: Mapping[str, Any]) -> str:
    names = ("metric", "n", "score", "interval", "blind", "swapped", "prior", "gain")
    head = f"<tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>"
    rows = []
    for name, found in told["metrics"].items():
        if "seen" not in found:
            rows.append(f"<tr><td>{escape(name)}</td><td>0</td></tr>")
            continue
        scale = 100 if found["percent"] else 1
        seen, gain = found["seen"], found.get("over_blind")
        controls = "".join(
            f"<td>{scale * found[c]['value']:.1f}</td>" if c in found else "<td>–</td>"
            for c in ("blind", "swapped", "prior")
        )
        added = "–" if gain is None else (
            f"{scale * gain['difference']:+.1f} ({scale * gain['low']:+.1f} to {scale * gain['high']:+.1f})"
        )  # fmt: skip
        rows.append(
            f"<tr><td>{escape(name)}</td><td>{found['n']}</td><td><b>{scale * seen['value']:.1f}</b></td>"
            f"<td>{scale * seen['low']:.1f}–{scale * seen['high']:.1f}</td>{controls}<td>{added}</td></tr>"
        )
    return f"<table>{head}{''.join(rows)}</table>"


def _kinds(told: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(kind)}</td><td>{found['n']}</td>"
        + "".join(
            f"<td>{100 * found[c]:.1f}</td>" if c in found else "<td>–</td>"
            for c in ("seen", "blind", "swapped", "prior")
        )
        + "</tr>"
        for kind, found in told["kinds"].items()
    )
    head = "<tr><th>kind</th><th>n</th><th>score</th><th>blind</th><th>swapped</th><th>prior</th></tr>"
    return f"<table>{head}{rows}</table>"


def _card(card: Mapping[str, Any]) -> str:
    unread = card["answer"] is None
    mood = "unread" if unread else "right" if (card["value"] or 0) >= 0.5 else "wrong"
    verdict = "could not be read" if unread else "invalid" if card["value"] is None else f"scored {card['value']:.3g}"
    lines = [
        ("question", card["question"]),
        ("reply", card["reply"]),
        ("reference", card["references"]),
        ("verdict", verdict),
    ]
    told = "".join(f"<dt>{name}</dt><dd>{escape(str(text))}</dd>" for name, text in lines)
    pictures = "".join(_picture(data, card["marks"] if at == 0 else {}) for at, data in enumerate(card["pictures"]))
    if not card["pictures"] and card["marks"].get("spans"):
        pictures = _timeline(card["marks"])
    return f'<div class="card {mood}">{pictures}<dl>{told}</dl></div>'


def _picture(data: bytes, marks: Mapping[str, Any]) -> str:
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    if not marks.get("size"):
        return f'<img src="{source}" alt="the picture as the model saw it">'
    width, height = marks["size"]
    drawn = "".join(_mark(mark, max(width, height) / 120) for mark in marks["places"])
    image = f'<image href="{source}" width="{width:g}" height="{height:g}"/>'
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img">{image}{drawn}</svg>'


def _mark(mark: Mapping[str, Any], stroke: float) -> str:
    """A box or a point: the truth in green, what was found in red."""
    colour = "#2c6" if mark["true"] else "#e33"
    place = [float(value) for value in mark["place"]]
    if len(place) == 2:
        return f'<circle cx="{place[0]:g}" cy="{place[1]:g}" r="{2 * stroke:g}" fill="{colour}" stroke="white"/>'
    x0, y0, x1, y1 = place
    return (
        f'<rect x="{x0:g}" y="{y0:g}" width="{max(0, x1 - x0):g}" height="{max(0, y1 - y0):g}" fill="none" '
        f'stroke="{colour}" stroke-width="{stroke:g}"/>'
    )


def _timeline(marks: Mapping[str, Any]) -> str:
    """True and found spans on one line of time."""
    end = max([float(value) for mark in marks["spans"] for value in mark["place"]] + [1.0])
    bars = "".join(
        f'<rect x="{200 * mark["place"][0] / end:g}" y="{0 if mark["true"] else 12:g}" '
        f'width="{200 * max(0.0, mark["place"][1] - mark["place"][0]) / end:g}" height="10" '
        f'fill="{"#2c6" if mark["true"] else "#e33"}"/>'
        for mark in marks["spans"]
    )
    return f'<svg viewBox="0 0 200 24" role="img">{bars}</svg>'
