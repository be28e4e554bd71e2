"""Comparisons: budgets, what is done once, and a small one from end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from chiasm.core.errors import ConfigError
from chiasm.recipes.comparing import text_table
from chiasm.recipes.comparison import Comparison, compare, held_out_of, parse_budget

SMALL = Comparison(
    recipes=("clip_pico",),
    data="scenes:train:captions?size=96&nouns=24",
    held_out="scenes:test:captions?size=96&nouns=24",
    tasks=("answers", "retrieval"),
    budget="2steps",
    seeds=2,
    settings=("batch_size=4", "model.num_layers=1", "model.text_layers=1"),
    limit=8,
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("2000steps", (2000.0, "steps")), ("10m", (600.0, "seconds")), ("1.5h", (5400.0, "seconds")),
     ("30 s", (30.0, "seconds")), ("1e15flops", (1e15, "flops")), ("2.5e9FLOPs", (2.5e9, "flops"))],
)  # fmt: skip
def test_budgets(text: str, wanted: tuple[float, str]) -> None:
    assert parse_budget(text) == wanted


@pytest.mark.parametrize("text", ["", "10", "m", "0steps", "ten steps", "-5m"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(ConfigError, match="budget_unknown"):
        parse_budget(text)


def test_the_held_out_part_of_generated_data() -> None:
    assert held_out_of("scenes:train:captions?size=96") == "scenes:test:captions?size=96"
    assert held_out_of("scenes") == "scenes:test"
    assert held_out_of("stamps:train") == "stamps:test"
    assert held_out_of("pictures/train") is None and held_out_of(None) is None


def test_a_comparison_from_end_to_end_and_again(tmp_path: Path) -> None:
    lines: list[str] = []
    table = compare(SMALL, tmp_path, 4, lines.append)
    (row,) = table["rows"]
    told = row["tasks"]["retrieval"]["to_text_r@1"]
    assert told["n"] == 8 and len(told["seen"]["seeds"]) == 2
    assert told["seen"]["low"] <= told["seen"]["value"] <= told["seen"]["high"]
    assert told["over_blind"]["difference"] == pytest.approx(told["seen"]["value"] - told["blind"]["value"], abs=1e-5)
    assert row["steps"] == 2 and 0 < row["trained"] <= row["parameters"] and row["flops"] > 1e6
    assert row["seconds"] > 0 and row["peak_bytes"] > 1e7
    assert row["skipped"] == {"answers": "the model has no generate; it has classify, embed"}
    assert "clip_pico" in text_table(table) and "skipped" in text_table(table)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 3 and "<script" not in page

    again: list[str] = []
    assert compare(SMALL, tmp_path, 4, again.append)["rows"] == json.loads(json.dumps(table["rows"]))
    assert lines and not again, "what is finished is not done again"
    with pytest.raises(ConfigError, match="comparison_exists.*budget"):
        compare(replace(SMALL, budget="3steps"), tmp_path, 4, again.append)


def test_flops_buy_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chiasm.recipes import comparison

    costs = {"flops": 100, "seconds": 0.5, "parameters": 1, "trained": 1}
    monkeypatch.setattr(comparison, "_step", lambda run, timed: costs)
    for budget, steps in (("1e4flops", 100), ("10s", 20), ("7steps", 7), ("1flops", 1)):
        asked = replace(SMALL, budget=budget)
        assert comparison._claim(asked, tmp_path / budget, lambda line: None)["clip_pico"]["steps"] == steps


def test_a_mixture_is_held_out_part_by_part_and_drawn_alike(tmp_path: Path) -> None:
    from dataclasses import replace as changed

    from chiasm.data.open import open_dataset
    from chiasm.recipes.comparison import _run_of

    mixed = "scenes:train:captions?size=96&count=6 + scenes:train:counting?count=2"
    assert held_out_of(mixed) == mixed.replace("train", "test")
    assert held_out_of("scenes:train + pictures/train") is None
    assert len(open_dataset(mixed)) == 8
    run = _run_of(changed(SMALL, data=mixed), "clip_pico", 0)
    assert [source.name for source in run.data] == mixed.split(" + ")
