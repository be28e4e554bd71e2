"""Few-shot curves: which examples, in which order, and that an item is never its own example."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.fakes import Looker, bright_task, shade

from chiasm.core.errors import ConfigError
from chiasm.evaluation import evaluate as engine
from chiasm.evaluation.few_shot import SHOTS, curve, nearest_by, random_shots, rices_shots, with_shots
from chiasm.evaluation.protocol import Item, Source, ask


def pool(count: int = 40) -> list[Item]:
    return [
        Item(key=f"p{at}", conversation=ask(shade(at), "Is it bright?"), references=("no",), group=f"g{at // 2}")
        for at in range(count)
    ]


def test_random_examples_depend_on_the_item_alone() -> None:
    items = pool()
    select = random_shots(items, seed=1)
    first = [shot.key for shot in select(items[3], 8)]
    assert first == [shot.key for shot in select(items[3], 8)] != [shot.key for shot in select(items[5], 8)]
    assert len(set(first)) == 8 and not {"p2", "p3"} & set(first), "nor another question about its picture"
    with pytest.raises(ConfigError, match="shots_missing"):
        select(items[0], 39)


def test_the_nearest_example_stands_last() -> None:
    items = pool(10)
    angles = np.linspace(0, 1.5, 10)
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    asked = Item(key="q", conversation=ask(shade(1), "?"), references=("yes",))
    found = rices_shots(items, vectors, lambda item: vectors[4])(asked, 3)
    assert found[-1].key == "p4" and {shot.key for shot in found} == {"p3", "p4", "p5"}


def test_a_curve_asks_the_same_items() -> None:
    task = bright_task(6)
    tasks = curve(task, random_shots(pool()))
    assert [each.name for each in tasks] == [f"bright@{count}" for count in SHOTS]
    for count, each in zip(SHOTS, tasks, strict=True):
        found = each.load(Source())
        assert [item.key for item in found.items] == [item.key for item in task.load(Source()).items]
        messages = found.items[0].conversation.messages
        assert len(messages) == 2 * count + 1 and messages[-1].role == "user"
        assert len(list(found.items[0].conversation.images())) == count + 1
    one = with_shots(pool()[0], pool()[1:2]).conversation.messages
    assert [message.role for message in one] == ["user", "assistant", "user"] and one[1].text == "no"


def test_a_curve_is_run_and_scored_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = bright_task(6)
    monkeypatch.setattr(engine, "known_tasks", lambda: {task.name: task})
    tasks = curve(task, nearest_by(Looker(), [shot for shot in pool() if shot.key != "p0"]), (0, 2))  # p0 is black
    found = engine.evaluate(Looker(), engine.Plan(tasks=tasks, out=tmp_path))
    assert found["n-shot"] == {"bright@0": 0, "bright@2": 2}
    assert engine.rescore(tmp_path)["results"] == found["results"]
