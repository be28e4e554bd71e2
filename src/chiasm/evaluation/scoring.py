"""Scoring: outputs → answers → figures, with controls and intervals. Nothing here needs a model or a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chiasm.evaluation.asking import ERROR
from chiasm.evaluation.controls import CONDITIONS
from chiasm.evaluation.protocol import Item, Metric, Task
from chiasm.evaluation.statistics import DRAWS, Figure, bootstrap, mcnemar, paired, resamples, wilson

SLOW_DRAWS = 200  # for figures that are no mean: each draw pools the answers anew
_DIGITS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A task's answers and values.

    Attributes:
        task: which.
        items: those that were scored, in order.
        outputs: by condition, as the model gave them.
        answers: by condition, parsed; None = a parse failure. `prior` among them where the task has it.
        values: by metric and condition; None = an invalid sample.
        invalid: items whose output is an error, with its code and reason.
    """

    task: Task
    items: Sequence[Item]
    outputs: Mapping[str, Sequence[Any]]
    answers: Mapping[str, Sequence[Any]]
    values: Mapping[str, Mapping[str, Sequence[float | None]]]
    invalid: Sequence[tuple[Item, str, str]] = ()


def score(task: Task, items: Sequence[Item], outputs: Mapping[str, Sequence[Any]]) -> Scored:
    """Parse and value every output.

    Args:
        task: how.
        items: what was asked.
        outputs: raw outputs by condition.

    Returns:
        The values; an item with an error under any condition is left out of all, so that pairs stay pairs.
    """
    errors: dict[int, tuple[str, str]] = {}
    for found in outputs.values():
        for at, output in enumerate(found):
            if isinstance(output, Mapping) and ERROR in output:
                errors.setdefault(at, (output[ERROR]["code"], output[ERROR]["reason"]))
    keep = [at for at in range(len(items)) if at not in errors]
    good = [items[at] for at in keep]
    kept = {condition: [found[at] for at in keep] for condition, found in outputs.items()}
    answers: dict[str, Sequence[Any]] = {
        condition: [task.parse(output, item) for output, item in zip(found, good, strict=True)]
        for condition, found in kept.items()
    }
    if task.prior is not None:
        answers["prior"] = list(task.prior(good))
    values = {
        metric.name: {condition: list(metric.values(good, found)) for condition, found in answers.items()}
        for metric in task.metrics
    }
    invalid = [(items[at], *errors[at]) for at in sorted(errors)]
    return Scored(task=task, items=good, outputs=kept, answers=answers, values=values, invalid=invalid)


def figure(scored: Scored, metric: Metric, condition: str, rows: Sequence[int]) -> Figure:
    """A function from draws of valid rows to a metric's figure under a condition."""
    values = scored.values[metric.name][condition]
    valid = np.array([values[at] for at in rows], dtype=float)
    if metric.pool is None:
        return lambda draw: float(valid[draw].mean()) if len(draw) else 0.0
    pool, answers = metric.pool, scored.answers[condition]

    def pooled(draw: np.ndarray) -> float:
        chosen = [rows[at] for at in draw]
        return float(pool([scored.items[at] for at in chosen], [answers[at] for at in chosen], valid[draw].tolist()))

    return pooled


def valid_rows(scored: Scored, metric: Metric) -> list[int]:
    """Items that the metric can be told for under every condition."""
    found = scored.values[metric.name].values()
    return [at for at in range(len(scored.items)) if all(values[at] is not None for values in found)]


def summary(scored: Scored) -> dict[str, Any]:
    """Everything the results file says of a task's scores."""
    metrics = {metric.name: _metric(scored, metric) for metric in scored.task.metrics}
    failures = {
        condition: sum(answer is None for answer in scored.answers[condition])
        for condition in scored.answers
        if condition != "prior"
    }
    return {
        "metrics": metrics,
        "headline": scored.task.metrics[0].name,
        "kinds": _kinds(scored),
        "parse_failures": failures,
        "verdict": verdict(metrics[scored.task.metrics[0].name]),
    }


def _metric(scored: Scored, metric: Metric) -> dict[str, Any]:
    rows = valid_rows(scored, metric)
    found: dict[str, Any] = {
        "n": len(rows),
        "invalid": len(scored.items) - len(rows),
        "percent": metric.percent,
        "higher_is_better": metric.higher,
    }
    if not rows:
        return found
    groups = [scored.items[at].group or scored.items[at].key for at in rows]
    samples = resamples(groups, DRAWS if metric.pool is None else SLOW_DRAWS)
    figures = {condition: figure(scored, metric, condition, rows) for condition in scored.answers}
    everything = np.arange(len(rows))
    for condition, function in figures.items():
        stderr, (low, high) = bootstrap(function, samples)
        values = [scored.values[metric.name][condition][at] for at in rows]
        if metric.pool is None and len(set(groups)) == len(groups) and set(values) <= {0.0, 1.0}:
            low, high = wilson(int(sum(value or 0 for value in values)), len(values))
        found[condition] = rounded({"value": function(everything), "stderr": stderr, "low": low, "high": high})
    for control in ("blind", "swapped"):
        if control in figures:
            found[f"over_{control}"] = rounded(paired(figures["seen"], figures[control], len(rows), samples))
    return found


def _kinds(scored: Scored) -> dict[str, Any]:
    """The headline of each kind of question, where there are several."""
    metric = scored.task.metrics[0]
    rows, kinds = valid_rows(scored, metric), {}
    names = sorted({scored.items[at].kind for at in rows})
    for name in names if len(names) > 1 else ():
        chosen = [at for at in rows if scored.items[at].kind == name]
        everything = np.arange(len(chosen))
        kinds[name] = {
            "n": len(chosen),
            **rounded({c: figure(scored, metric, c, chosen)(everything) for c in scored.answers}),
        }
    return kinds


def verdict(metric: Mapping[str, Any]) -> str:
    """Whether the picture was used, in one sentence."""
    gain = metric.get("over_blind")
    if gain is None:
        return "no item was scored" if not metric.get("n") else "no blind control"
    low, high = (gain["low"], gain["high"]) if metric["higher_is_better"] else (-gain["high"], -gain["low"])
    if low > 0:
        return "the picture was used: the score without it is worse beyond chance"
    if high < 0:
        return "the picture did harm: the score without it is better beyond chance"
    return "nothing shows that the picture was used: the score without it is as good within chance"


def compare(first: Scored, second: Scored) -> dict[str, Any]:
    """Two runs on the items that both have.

    Args:
        first, second: the same task, two models.

    Returns:
        For each metric the paired difference with its interval, and McNemar's test where values are 0 or 1.
    """
    here = {item.key: at for at, item in enumerate(first.items)}
    there = {item.key: at for at, item in enumerate(second.items)}
    shared = [key for key in here if key in there]
    found: dict[str, Any] = {"items": len(shared)}
    for metric in first.task.metrics:
        a, b = first.values[metric.name]["seen"], second.values[metric.name]["seen"]
        keys = [key for key in shared if a[here[key]] is not None and b[there[key]] is not None]
        if not keys:
            continue
        groups = [first.items[here[key]].group or key for key in keys]
        one = figure(first, metric, "seen", [here[key] for key in keys])
        other = figure(second, metric, "seen", [there[key] for key in keys])
        samples = resamples(groups, DRAWS if metric.pool is None else SLOW_DRAWS)
        found[metric.name] = {"n": len(keys), **rounded(paired(one, other, len(keys), samples))}
        x, y = [float(a[here[key]] or 0) for key in keys], [float(b[there[key]] or 0) for key in keys]
        if {*x, *y} <= {0.0, 1.0}:
            found[metric.name]["mcnemar"] = rounded(mcnemar(x, y))
    return found


def rounded(value: Any) -> Any:
    """Floats cut to six decimals, so that files can be compared byte by byte."""
    if isinstance(value, float):
        return round(value, _DIGITS) + 0.0
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


def by_condition(requests: Mapping[str, Sequence[str]], outputs: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Outputs of items under each condition, from a journal."""
    return {condition: [outputs[key] for key in requests[condition]] for condition in CONDITIONS}
