"""What a comparison came to: a row for each recipe and task, and the report with its plots."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chiasm.evaluation.charts import chart
from chiasm.evaluation.evaluate import scored_run
from chiasm.evaluation.scoring import SLOW_DRAWS, Scored, figure, rounded, valid_rows
from chiasm.evaluation.statistics import DRAWS, interval, resamples
from chiasm.training.logs import read_log

if TYPE_CHECKING:
    from chiasm.recipes.comparison import Comparison


def plain_name(text: str) -> str:
    """A recipe with settings of its own as a folder's name."""
    return re.sub(r"[^\w.=,+-]+", "_", text.replace("?", "+").replace("&", "+"))


def collect(asked: Comparison, plan: Mapping[str, Any], out: Path) -> list[dict[str, Any]]:
    """Every row of the table.

    Args:
        asked: the comparison.
        plan: steps, parameters and cost of a step of each recipe.
        out: its folder.

    Returns:
        For each recipe its cost and, for each task that it is able to do, every metric's mean over seeds with the 95 %
        interval of a bootstrap that draws seeds and items, beside the blind score and the gain.
    """
    rows = []
    for name in asked.recipes:
        usages, seconds, results = [], [], []
        for seed in range(asked.seeds):
            folder = out / "runs" / plain_name(name) / str(seed)
            usages.append(json.loads((folder / "usage.json").read_text("utf-8")))
            seconds.append(sum(line["seconds"] for line in read_log(folder / "log.jsonl")))
            results.append(
                json.loads((out / "eval" / plain_name(name) / str(seed) / "results.json").read_text("utf-8"))
            )
        told = plan[name]
        tasks = {
            task: _over_seeds(
                [scored_run(out / "eval" / plain_name(name) / str(seed), task)[0] for seed in range(asked.seeds)]
            )
            for task in results[0]["chiasm"]
        }
        rows.append(
            {
                "recipe": name,
                "steps": told["steps"],
                "parameters": told["parameters"],
                "trained": told["trained"],
                "flops": told["flops"] * told["steps"],
                "seconds": round(float(np.mean(seconds)), 3),
                "peak_bytes": max(usage["peak_bytes"] for usage in usages),
                "tasks": tasks,
                "kinds": {task: _kinds([result["chiasm"][task]["kinds"] for result in results]) for task in tasks},
                "skipped": results[0]["skipped"],
            }
        )
    return rows


def _kinds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For each kind of question its number and the means over seeds of the score and the blind score."""
    return {
        kind: {
            "n": told["n"],
            **{c: float(np.mean([run[kind][c] for run in runs])) for c in ("seen", "blind") if c in told},
        }
        for kind, told in runs[0].items()
    }


def _over_seeds(runs: Sequence[Scored]) -> dict[str, Any]:
    found = {}
    for metric in runs[0].task.metrics:
        rows = valid_rows(runs[0], metric)
        if not rows:
            continue
        groups = [runs[0].items[at].group or runs[0].items[at].key for at in rows]
        draws = resamples(groups, DRAWS if metric.pool is None else SLOW_DRAWS)
        chosen = np.random.default_rng(0).integers(0, len(runs), (len(draws), len(runs)))
        everything = np.arange(len(rows))
        told: dict[str, Any] = {"n": len(rows), "percent": metric.percent, "shown": metric.shown}
        figures = {condition: [figure(run, metric, condition, rows) for run in runs] for condition in runs[0].answers}
        tables = {
            condition: np.array([[one(draw) for one in ones] for draw in draws])
            for condition, ones in figures.items()
            if condition in ("seen", "blind")
        }
        for condition, ones in figures.items():
            values = [one(everything) for one in ones]
            told[condition] = {"value": float(np.mean(values)), "seeds": values}
            if condition in tables:
                low, high = interval(np.take_along_axis(tables[condition], chosen, 1).mean(1).tolist())
                told[condition] |= {"low": low, "high": high}
        if "blind" in tables:
            gains = np.take_along_axis(tables["seen"] - tables["blind"], chosen, 1).mean(1)
            low, high = interval(gains.tolist())
            difference = told["seen"]["value"] - told["blind"]["value"]
            told["over_blind"] = {"difference": difference, "low": low, "high": high}
        found[metric.name] = rounded(told)
    return found


def text_table(table: Mapping[str, Any]) -> str:
    """The table for a terminal: each task's headline and what stands beside it, a line a recipe."""
    wide = max(24, *(len(row["recipe"]) for row in table["rows"]))
    lines = [
        f"{'recipe':<{wide}} {'task':<14} {'metric':<14} {'score':>7} {'95 %':>13} {'blind':>7} {'gain':>7} "
        f"{'trained':>9} {'all':>9} {'steps':>7} {'FLOPs':>9} {'seconds':>8} {'MiB':>7}"
    ]
    for row in table["rows"]:
        cost = (
            f"{row['trained']:>9.3g} {row['parameters']:>9.3g} {row['steps']:>7} {row['flops']:>9.2e} "
            f"{row['seconds']:>8.1f} {row['peak_bytes'] / 2**20:>7.0f}"
        )
        for task, metrics in row["tasks"].items():
            for name in [name for at, name in enumerate(metrics) if at == 0 or metrics[name].get("shown")]:
                told = metrics[name]
                scale = 100 if told["percent"] else 1
                spread = f"{scale * told['seen']['low']:.1f}-{scale * told['seen']['high']:.1f}"
                lines.append(
                    f"{row['recipe']:<{wide}} {task:<14} {name:<14} {scale * told['seen']['value']:>7.1f} {spread:>13} "
                    f"{scale * told['blind']['value']:>7.1f} {scale * told['over_blind']['difference']:>+7.1f} {cost}"
                )
        for task, kinds in row["kinds"].items():
            told = ", ".join(
                f"{kind} {100 * each['seen']:.1f} ({100 * each['blind']:.1f})"
                for kind, each in kinds.items()
                if "blind" in each
            )
            lines += [f"{row['recipe']:<{wide}} {task:<14} by kind, blind in brackets: {told}"] if told else []
        lines += [f"{row['recipe']:<{wide}} {task:<14} skipped: {why}" for task, why in row["skipped"].items()]
    return "\n".join(lines)


def write_report(table: Mapping[str, Any], asked: Comparison, out: Path) -> None:
    """`report.html`: the table and its plots, in one page that loads nothing."""
    plots = [chart(_curves(asked, out), "learning curves, mean over seeds", "step", "loss")]
    rows = table["rows"]
    headlines = sorted({(task, next(iter(told))) for row in rows for task, told in row["tasks"].items() if told})
    for task, metric in headlines:
        for cost, words in (("trained", "trained parameters"), ("flops", "training FLOPs")):
            series = {
                row["recipe"]: [(row[cost], value) for value in row["tasks"][task][metric]["seen"]["seeds"]]
                for row in rows
                if task in row["tasks"]
            }
            plots.append(chart(series, f"{task}: {metric} against {words}", words, metric, log_x=True, joined=False))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>chiasm compare</title><style>'
        ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2rem auto;"
        "padding:0 1rem}pre{overflow:auto}</style></head><body><h1>chiasm compare</h1>"
        f"<p>Data {escape(str(asked.data))}, held out {escape(str(asked.held_out))}, budget {escape(asked.budget)}, "
        f"{asked.seeds} seeds. Scores are means over seeds; intervals draw seeds and items.</p>"
        f"<pre>{escape(text_table(table))}</pre>{''.join(plots)}</body></html>\n"
    )
    (out / "report.html").write_text(page, encoding="utf-8")


def _curves(asked: Comparison, out: Path) -> dict[str, list[tuple[float, float]]]:
    found = {}
    for name in asked.recipes:
        losses: dict[int, list[float]] = {}
        for seed in range(asked.seeds):
            for line in (out / "runs" / plain_name(name) / str(seed) / "log.jsonl").read_text("utf-8").splitlines():
                row = json.loads(line)
                if row.get("loss") is not None:
                    losses.setdefault(row["step"], []).append(row["loss"])
        found[name] = [(float(step), float(np.mean(values))) for step, values in sorted(losses.items())]
    return found
