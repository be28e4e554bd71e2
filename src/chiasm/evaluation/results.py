"""The files of a run: what was asked, what was answered, what it scored.

| file | holds |
|---|---|
| `manifest.json` | what decides the answers: weights, pixels, tokens, template, decoding, versions, data, tasks |
| `items/TASK.jsonl` | every item with its references, and the key of each request |
| `outputs/TASK.jsonl` | the journal: every output as the model gave it |
| `samples/TASK.jsonl` | the per-sample log: question, references, output, answer and values under each condition |
| `pictures/TASK/N.png` | pictures as the model saw them, of the first items |
| `results.json` | the figures, in the shape that lmms-eval users know |
| `report.html` | one self-contained page |
| `run.jsonl` | when what was done, and how long it took: the only file that differs between equal runs |
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.core.messages import Conversation, Message, TextPart
from chiasm.data.rows import Fault
from chiasm.evaluation.controls import CONDITIONS
from chiasm.evaluation.protocol import Item
from chiasm.evaluation.scoring import Scored, rounded, valid_rows

FILTERS = {"seen": "none", "blind": "blind", "swapped": "swapped", "prior": "prior"}


def write_json(path: Path, document: Any) -> None:
    """Write one JSON document, the same bytes for equal documents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_lines(path: Path) -> list[Any]:
    """Read JSON lines.

    Raises:
        ConfigError: the file isn't there, or a line is no JSON.
    """
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise ConfigError("run_incomplete", f"{path} isn't there", hint="the same command with --resume") from None
    except ValueError as error:
        raise ConfigError("json_malformed", f"{path}: {error}") from None


def item_rows(items: Sequence[Item], requests: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Items as they are stored: everything but their pictures."""
    return [
        {
            "key": item.key,
            "question": item.question,
            "references": list(item.references),
            "kind": item.kind,
            "options": list(item.options),
            "group": item.group,
            "truth": dict(item.truth),
            "requests": {condition: requests[condition][at] for condition in CONDITIONS},
        }
        for at, item in enumerate(items)
    ]


def stored_items(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Item], dict[str, list[str]]]:
    """Items and their requests, from what `item_rows` gave."""
    items = [
        Item(
            key=row["key"],
            conversation=Conversation((Message("user", (TextPart(row["question"]),)),)),
            references=tuple(row["references"]),
            kind=row["kind"],
            options=tuple(row["options"]),
            group=row["group"],
            truth=row["truth"],
        )
        for row in rows
    ]
    return items, {condition: [row["requests"][condition] for row in rows] for condition in CONDITIONS}


def sample_rows(scored: Scored) -> list[dict[str, Any]]:
    """The per-sample log; `doc_id`, `target`, `resps` and `filtered_resps` as lmms-eval names them."""
    metrics = [metric.name for metric in scored.task.metrics]
    rows: list[dict[str, Any]] = []
    for at, item in enumerate(scored.items):
        controls = {
            condition: {
                "answer": found[at],
                **{name: scored.values[name][condition][at] for name in metrics},
            }
            for condition, found in scored.answers.items()
            if condition != "seen"
        }
        rows.append(
            {
                "doc_id": item.key,
                "question": item.question,
                "target": list(item.references) or dict(item.truth),
                "resps": scored.outputs["seen"][at],
                "filtered_resps": scored.answers["seen"][at],
                "parsed": scored.answers["seen"][at] is not None,
                **{name: scored.values[name]["seen"][at] for name in metrics},
                "controls": controls,
            }
        )
    rows += [{"doc_id": item.key, "invalid": code, "reason": reason} for item, code, reason in scored.invalid]
    return rounded(rows)


def results(
    manifest: Mapping[str, Any],
    scores: Sequence[tuple[Scored, Mapping[str, Any], Sequence[Fault]]],
    skipped: Mapping[str, str],
    overlap: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The results file.

    Args:
        manifest: of the run.
        scores: for each task what it scored, its `summary`, and its unusable rows.
        skipped: tasks that the model can't be asked, and why.
        overlap: for each task, how much of it is in the training data that was named.
    """
    table: dict[str, dict[str, Any]] = {}
    for scored, told, _ in scores:
        row: dict[str, Any] = {"alias": scored.task.name}
        for name, metric in told["metrics"].items():
            for condition, filtered in FILTERS.items():
                if condition in metric:
                    row[f"{name},{filtered}"] = metric[condition]["value"]
                    row[f"{name}_stderr,{filtered}"] = metric[condition]["stderr"]
        table[scored.task.name] = row
    return {
        "results": table,
        "configs": {
            s.task.name: {
                "task": s.task.name,
                "description": s.task.about,
                "output_type": s.task.way,
                "generation_kwargs": {"max_new_tokens": s.task.max_new_tokens, "temperature": 0.0},
                "metric_list": [
                    {"metric": metric.name, "higher_is_better": metric.higher} for metric in s.task.metrics
                ],
            }
            for s, _, _ in scores
        },
        "versions": {s.task.name: s.task.version for s, _, _ in scores},
        "n-shot": {s.task.name: int(s.task.name.partition("@")[2] or 0) for s, _, _ in scores},
        "higher_is_better": {s.task.name: {m.name: m.higher for m in s.task.metrics} for s, _, _ in scores},
        "n-samples": {
            s.task.name: {
                "original": len(s.items) + len(s.invalid) + len(faults),
                "effective": len(valid_rows(s, s.task.metrics[0])),
            }
            for s, _, faults in scores
        },
        "config": dict(manifest),
        "chiasm": {
            s.task.name: {
                **told,
                "invalid": [{"row": item.key, "code": code, "reason": reason} for item, code, reason in s.invalid],
                "bad": [
                    {"source": f.place.source, "row": f.place.row, "code": f.code, "reason": f.reason} for f in faults
                ],
                **({"training_overlap": overlap[s.task.name]} if s.task.name in overlap else {}),
            }
            for s, told, faults in scores
        },
        "skipped": dict(skipped),
    }
