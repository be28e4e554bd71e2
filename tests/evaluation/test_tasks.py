"""Every task on a made-up copy of its data in the published format: items, truth, bad rows, scores of right answers."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.evaluation.copies import BUILDERS, lines

from chiasm.core.errors import ConfigError, DataError
from chiasm.evaluation.protocol import Items, Source, Task
from chiasm.evaluation.tasks import chosen, tasks
from chiasm.evaluation.tasks.classes import names

WITHOUT_BAD_ROWS = {"folders", "imagenet"}
COUNTS = {
    "mmbench": 2, "pope": 6, "mme": 4, "refcoco": 3, "folders": 3,
}  # fmt: skip


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[Task, Items]]:
    def run(name: str, **settings: Any) -> tuple[Task, Items]:
        if not (tmp_path / "copy").exists():
            (tmp_path / "copy").mkdir()
            BUILDERS[name](tmp_path / "copy")
        task = tasks()[name]
        return task, task.load(Source(folder=tmp_path / "copy", **settings))

    return run


def test_every_task_that_reads_a_copy_has_one_here() -> None:
    assert {name for name, task in tasks().items() if task.needs_folder} == set(BUILDERS)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_items_and_bad_rows(name: str, load: Callable[..., tuple[Task, Items]]) -> None:
    task, found = load(name)
    assert len(found.items) == COUNTS.get(name, 2), [fault.reason for fault in found.faults]
    assert len({item.key for item in found.items}) == len(found.items)
    assert bool(found.faults) == (name not in WITHOUT_BAD_ROWS)
    assert all(fault.code and fault.reason for fault in found.faults)
    assert len(found.fingerprint) > 8
    for item in found.items:
        assert item.references or item.truth.get("boxes") or item.truth.get("spans")
        source = item.picture
        if isinstance(source, str) and name != "charades_sta":
            Image.open(source).verify()
    assert len(load(name, limit=1)[1].items) == 1


@pytest.mark.parametrize(
    "name", sorted(name for name in BUILDERS if tasks()[name].way in ("generate", "ground", "locate"))
)
def test_right_answers_score_in_full_and_wrong_ones_nothing(name: str, load: Callable[..., tuple[Task, Items]]) -> None:
    task, found = load(name)
    right, wrong = [], []
    for item in found.items:
        if task.way == "generate":
            right.append(item.references[0])
            wrong.append("zebra crossing" if not item.options else "Z")
        elif task.way == "ground":
            right.append({"boxes": [item.truth["boxes"][0]["box"]], "points": []})
            wrong.append({"boxes": [[900.0, 900.0, 901.0, 901.0]], "points": []})
        else:
            right.append(item.truth["spans"])
            wrong.append([[500.0, 501.0]])
    full = {"pope": {"yes_ratio": 0.5}, "mme": {"total": 400.0, "perception": 200.0, "cognition": 200.0}}.get(name, {})
    for metric in task.metrics:
        figures = []
        for outputs in (right, wrong):
            answers = [task.parse(output, item) for output, item in zip(outputs, found.items, strict=True)]
            values = [float(value or 0) for value in metric.values(found.items, answers)]
            figures.append(metric.pool(found.items, answers, values) if metric.pool else sum(values) / len(values))
        if name.endswith("captions"):
            assert figures[0] > figures[1]
        else:
            assert figures == [pytest.approx(full.get(metric.name, 1.0)), pytest.approx(0.0, abs=0.15)], metric.name
    assert task.prior is not None and len(list(task.prior(found.items))) == len(found.items)


def test_mmbench_asks_every_rotation(load: Callable[..., tuple[Task, Items]]) -> None:
    _, found = load("mmbench")
    assert [item.options for item in found.items] == [("red", "blue"), ("blue", "red")]
    assert [item.references[0] for item in found.items] == ["B", "A"]
    assert [fault.code for fault in found.faults] == ["references_missing"]


def test_splits_are_chosen(load: Callable[..., tuple[Task, Items]]) -> None:
    assert [item.kind for item in load("refcoco", split="testA")[1].items] == ["testA", "testA"]
    assert {item.kind for item in load("refcoco")[1].items} == {"testA", "testB"}


def test_prompts_of_the_ensemble_are_the_published_ones() -> None:
    source = Path(__file__).parents[2] / ".reference" / "open_clip" / "zero_shot_metadata.py"
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "OPENAI_IMAGENET_TEMPLATES":
            assert isinstance(node.value, ast.Tuple)
            wanted = [eval(ast.unparse(each))("{}") for each in node.value.elts]  # lambdas of one f-string each
    assert list(names("imagenet_templates.txt")) == wanted and len(wanted) == 80
    assert len(names("imagenet.txt")) == 1000


NO_ROWS = (None, 3, "x", [], {})


def _with_no_rows(document: Any) -> Any:
    """The document with things that are no rows at the end of every list of rows, and of an object of rows."""
    if isinstance(document, list):
        rows = bool(document) and isinstance(document[0], dict)
        return [*map(_with_no_rows, document), *(NO_ROWS if rows else ())]
    if isinstance(document, dict):
        rows = bool(document) and all(isinstance(value, dict) for value in document.values())
        inner = document if rows else {key: _with_no_rows(value) for key, value in document.items()}
        return {**inner, **({f"odd {at}": each for at, each in enumerate(NO_ROWS)} if rows else {})}
    return document


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_what_is_no_row_never_ends_a_task(name: str, load: Callable[..., tuple[Task, Items]], tmp_path: Path) -> None:
    whole = len(load(name)[1].items)
    changed = 0
    for path in (tmp_path / "copy").rglob("*.json"):
        text = path.read_text("utf-8")
        if text.count("\n") > 1:
            path.write_text(text + lines(list(NO_ROWS)), "utf-8")
        elif (
            path.name != "instances.json" and "sentences" not in text and name != "ai2d"
        ):  # rows inside rows are a row's own fault
            path.write_text(json.dumps(_with_no_rows(json.loads(text))), "utf-8")
        changed += 1
    if changed:
        found = tasks()[name].load(Source(folder=tmp_path / "copy"))
        assert len(found.items) == whole and all(fault.code and fault.reason for fault in found.faults)


def test_a_blank_question_is_a_bad_row_of_vqav2(load: Callable[..., tuple[Task, Items]], tmp_path: Path) -> None:
    load("vqav2")
    path = tmp_path / "copy" / "v2_OpenEnded_mscoco_val2014_questions.json"
    document = json.loads(path.read_text("utf-8"))
    document["questions"][1]["question"] = "\u200b "
    path.write_text(json.dumps(document), "utf-8")
    found = tasks()["vqav2"].load(Source(folder=tmp_path / "copy"))
    assert [item.truth["people"][0] for item in found.items] == ["dog"] and "question_empty" in [
        fault.code for fault in found.faults
    ]


def test_wrong_copies_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="file_missing"):
        tasks()["gqa"].load(Source(folder=tmp_path))
    with pytest.raises(ConfigError, match="task_unknown.*scenes"):
        chosen(["scnes"])
    assert [task.name for task in chosen(["stamps", "stamps_naming"])] == [
        "stamps_classification", "stamps_naming", "stamps_retrieval",
    ]  # fmt: skip


def test_the_likeliest_choice_and_perplexity(load: Callable[..., tuple[Task, Items]]) -> None:
    task, found = load("choices")
    item = found.items[0]
    assert item.options == ("cat", "dog") and item.references == ("B",)
    assert task.parse([[-3.0], [-1.0, -2.0]], item) == "B"
    assert task.parse([[-1.0], [-1.0, -1.0]], item) is None, "a tie is no choice"
    task = tasks()["likelihood"]
    answers = [task.parse([[-0.5, -0.5]], item), task.parse([[-2.0]], item)]
    first, second = task.metrics
    values = [float(value or 0) for value in first.values(found.items, answers)]
    assert first.pool is not None and first.pool(found.items, answers, values) == pytest.approx(2.718281828)
    assert values == list(second.values(found.items, answers)) == [0.5, 2.0]
