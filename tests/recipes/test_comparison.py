"""Comparisons: budgets, what is done once, and a small one from end to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from chiasm.core.errors import ConfigError
from chiasm.evaluation.charts import chart
from chiasm.recipes import comparison
from chiasm.recipes.comparing import plain_name, text_table
from chiasm.recipes.comparison import Comparison, compare, held_out_of, parse_budget
from chiasm.recipes.run import Run, Source, Tiny, find_recipe
from chiasm.recipes.running.settings import write_run

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
    more = compare(replace(SMALL, seeds=SMALL.seeds + 1), tmp_path, 4, again.append)
    assert len(again) == 2 and all("seed 2" in line for line in again), again
    assert len(more["rows"][0]["tasks"]["retrieval"]["to_text_r@1"]["seen"]["seeds"]) == 3
    with pytest.raises(ConfigError, match="comparison_exists.*budget"):
        compare(replace(SMALL, budget="3steps"), tmp_path, 4, again.append)


def test_variants_share_what_comes_first_and_its_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[str, Run]] = []

    def train(run: Run, name: str, folder: Path, tell: object) -> None:
        trained.append((name, run))
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("{}")

    monkeypatch.setattr(comparison, "_train", train)
    own = ("siglip_pico_locked?batch_size=2", "siglip_pico_locked?batch_size=4&objective=InfoNCE")
    asked = replace(SMALL, recipes=own, settings=("batch_size=8", "model.context_length=16"))
    runs = [
        comparison._ready(comparison._run_of(asked, name, seed), tmp_path, print) for seed in (0, 1) for name in own
    ]
    assert [(name, run.seed) for name, run in trained] == [("siglip_pico", 0), ("siglip_pico", 1)]
    assert [(run.batch_size, type(run.objective).__name__) for run in runs[:2]] == [
        (2, "PairwiseSigmoid"), (4, "InfoNCE")
    ]  # fmt: skip
    assert {run.init_from for run in runs} == {str(tmp_path / "stages" / "siglip_pico" / seed) for seed in "01"}
    assert {run.store.folder for run in runs if run.store} == {str(tmp_path / "features")}
    assert [run.model.context_length for run in runs] == [16] * 4  # type: ignore[union-attr]
    assert [plain_name(name) for name in own] == [
        "siglip_pico_locked+batch_size=2", "siglip_pico_locked+batch_size=4+objective=InfoNCE"
    ]  # fmt: skip


def test_a_killed_comparison_leaves_no_training_behind_and_goes_on_where_it_was(tmp_path: Path) -> None:
    for number in range(6):
        Image.new("RGB", (40, 40), (40 * number, 200 - 20 * number, 90)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"a square, number {number}")
    out, data = tmp_path / "run", (Source(name=str(tmp_path)),)
    run = replace(find_recipe("clip_pico").run(), model=Tiny(), batch_size=4, checkpoint_every=5, data=data, threads=1)
    write_run(replace(run, steps=10_000), tmp_path / "r.yaml")
    code = (
        "import sys; from pathlib import Path; from chiasm.recipes import comparison as c\n"
        f"c._train(c.resolve({str(tmp_path / 'r.yaml')!r}), 'clip_pico', Path({str(out)!r}), print)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (
        (out / "log.jsonl").is_file() and (out / "log.jsonl").read_bytes().count(b"\n") >= 7
    ):
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    done = json.loads((out / "log.jsonl").read_text().splitlines()[-1])["step"] + 200
    write_run(replace(run, steps=done), out / "recipe.yaml")
    comparison._train(run, "clip_pico", out, print)  # waits for the orphan to save and leave
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, done + 1)) and "going on after step" in (out / "train.log").read_text()


def test_long_names_fit_beside_a_chart() -> None:
    short, long = (
        chart({name: [(1, 1), (2, 3)]}, "t", "x", "y") for name in ("a", "palme_pico?model.connector=linear&a=b")
    )
    widths = [int(text.split('width="')[1].split('"')[0]) for text in (short, long)]
    assert widths[0] == 560 and widths[1] >= 560 - 122 + 38 * 6


def test_flops_buy_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
