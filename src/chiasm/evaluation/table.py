"""The table that a terminal shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def table(results: Mapping[str, Any]) -> str:
    """One line a figure: score with interval, the controls, and what the picture added."""
    lines = [
        f"{'task':<22} {'metric':<20} {'n':>5} {'score':>7} {'95 %':>15} {'blind':>7} {'swapped':>7} {'prior':>7}  gain"
    ]
    for name, told in results["chiasm"].items():
        for metric, found in told["metrics"].items():
            if "seen" not in found:
                lines.append(f"{name:<22} {metric:<20} {0:>5}  nothing could be scored")
                continue
            scale = 100 if found["percent"] else 1
            seen, gain = found["seen"], found.get("over_blind")
            spread = f"{scale * seen['low']:.1f}-{scale * seen['high']:.1f}"
            controls = " ".join(
                f"{scale * found[c]['value']:>7.1f}" if c in found else f"{'-':>7}"
                for c in ("blind", "swapped", "prior")
            )
            added = "" if gain is None else (
                f"{scale * gain['difference']:+.1f} ({scale * gain['low']:+.1f} to {scale * gain['high']:+.1f})"
            )  # fmt: skip
            score = f"{scale * seen['value']:>7.1f} {spread:>15}"
            lines.append(f"{name:<22} {metric:<20} {found['n']:>5} {score} {controls}  {added}")
        lines.append(f"{'':<22} {told['verdict']}")
        lines += [f"{'':<22} {line}" for line in notes(told)]
    lines += [f"{name:<22} skipped: {why}" for name, why in results["skipped"].items()]
    return "\n".join(lines)


def notes(told: Mapping[str, Any]) -> list[str]:
    """What else must be said of a task: parse failures, invalid samples, unusable rows, overlap with training data."""
    found = []
    failures = told["parse_failures"].get("seen", 0)
    if failures:
        found.append(f"{failures} replies could not be read and count as wrong")
    if told["invalid"]:
        found.append(f"{len(told['invalid'])} samples are invalid and left out, first: {told['invalid'][0]['code']}")
    if told["bad"]:
        first = told["bad"][0]
        found.append(f"{len(told['bad'])} rows can't be used, first: {first['row']} ({first['code']})")
    overlap = told.get("training_overlap")
    if overlap is not None:
        found.append(f"{overlap['items']} of {overlap['of']} items show a picture that is in the training data")
    return found
