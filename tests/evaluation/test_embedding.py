"""Retrieval and zero-shot classification end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.evaluation.fakes import Looker

from chiasm.core.messages import Conversation, ImagePart, Message
from chiasm.evaluation import evaluate as engine
from chiasm.evaluation.embedding import Retrieval, ZeroShot
from chiasm.evaluation.evaluate import Plan, evaluate
from chiasm.evaluation.protocol import Item, Items, Task
from chiasm.evaluation.ranking import classification_metrics, frequent_class, retrieval_metrics

COLOURS = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (250, 250, 10), (10, 250, 250)]


def task(name: str, prepare: Any, metrics: Any, prior: Any = None, captions: int = 1) -> Task:
    def load(source: Any) -> Items:
        items = []
        for at, colour in enumerate(COLOURS):
            picture = Image.new("RGB", (6, 6), colour)
            words = tuple("/".join(str(max(1, part - shift)) for part in colour) for shift in range(captions))
            turn = Message("user", (ImagePart(picture),))
            items.append(Item(key=str(at), conversation=Conversation((turn,)), references=words))
        return Items(items=items, fingerprint="colours")

    return Task(
        name=name, about=name, way="embed", load=load, metrics=metrics, prepare=prepare, prior=prior, needs_folder=False
    )


@pytest.mark.parametrize("captions", [1, 3])
def test_retrieval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, captions: int) -> None:
    found = task("colours", Retrieval(), retrieval_metrics(), captions=captions)
    monkeypatch.setattr(engine, "known_tasks", lambda: {found.name: found})
    told = evaluate(Looker(), Plan(tasks=[found], out=tmp_path))["chiasm"]["colours"]["metrics"]
    assert told["to_text_r@1"]["seen"]["value"] == told["to_picture_r@1"]["seen"]["value"] == 1.0
    assert told["to_text_median_rank"]["seen"]["value"] == 1.0
    assert told["to_picture_r@1"]["blind"]["value"] == 0.0, "equal pictures tie, and ties win nothing"
    assert told["to_text_r@1"]["blind"]["value"] <= 0.2 + 1e-9
    assert told["to_text_r@1"]["swapped"]["value"] == 0.0


def test_zero_shot_classification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = task("names", ZeroShot(("{}",)), classification_metrics(), frequent_class)
    monkeypatch.setattr(engine, "known_tasks", lambda: {found.name: found})
    told = evaluate(Looker(), Plan(tasks=[found], out=tmp_path))["chiasm"]["names"]["metrics"]
    assert told["top1"]["seen"]["value"] == told["mean_per_class"]["seen"]["value"] == 1.0
    assert told["top1"]["blind"]["value"] <= 0.2 + 1e-9
    assert told["top1"]["prior"]["value"] == pytest.approx(0.2)
    assert told["top5"]["blind"]["value"] == 1.0
