"""`chiasm train` as people use it: train, stop, go on, repeat, prove; and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import chiasm

SMALL = ("--set", "model=Tiny", "--set", "batch_size=4", "--set", "checkpoint_every=3")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(10):
        Image.new("RGB", (40, 40), (25 * number, 200 - 20 * number, 90)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a square, number {number}")
    return folder


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "chiasm", "train", *map(str, words)]


def train(*words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command(*words), capture_output=True, text=True, env=environment, timeout=300)


def hexes(path: Path) -> list[str]:
    return [json.loads(line)["loss_hex"] for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 8 steps, and its loss log beside it."""
    out = tmp_path_factory.mktemp("runs") / "clip"
    words = ("clip_pico", *SMALL, "--set", f"data={pictures}", "--set", "steps=8", "--out", out)
    done = train(*words, "--loss-log", f"{out}.jsonl", "--deterministic", "--set", "tensorboard=true", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["step"] == 8 and told["recipe"] == "clip_pico" and not told["interrupted"]
    assert "sample 0: a square" in done.stderr and "step 8/8" in done.stderr
    return out


def test_a_run_leaves_a_model_a_log_and_a_picture(run: Path) -> None:
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, 9)) and {"loss", "norm", "rate", "seconds"} <= set(log[0])
    assert hexes(run.with_name("clip.jsonl")) == [line["loss_hex"] for line in log]
    assert Image.open(run / "loss.png").size == (900, 480)
    assert len(list((run / "tensorboard").glob("events.out.tfevents.*"))) == 1
    assert chiasm.load(run).embed_texts("a square").shape == chiasm.load(run / "model").embed_texts("a square").shape


def test_the_file_of_a_run_repeats_it(run: Path, tmp_path: Path) -> None:
    done = train(run / "recipe.yaml", "--out", tmp_path / "again", "--loss-log", tmp_path / "log", "--deterministic")
    assert done.returncode == 0, done.stderr
    assert hexes(tmp_path / "log") == hexes(run.with_name("clip.jsonl"))


def test_sigterm_saves_exits_0_and_the_run_goes_on(run: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    words = (run / "recipe.yaml", "--set", "steps=400", "--out", out, "--loss-log", log)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True, env=environment) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (log.exists() and log.read_bytes().count(b"\n") >= 2):
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0 and "--resume" in said
    stopped = len(hexes(log))
    assert 2 <= stopped < 400
    again = train("--resume", "--out", out, "--set", f"steps={stopped + 2}", "--loss-log", log)
    assert again.returncode == 0 and f"going on after step {stopped}" in again.stderr, again.stderr
    assert len(hexes(log)) == stopped + 2


def test_a_run_is_never_overwritten_or_mixed(run: Path, pictures: Path, tmp_path: Path) -> None:
    def fails(*words: object) -> str:
        done = train(*words, "--json")
        assert done.returncode == 1 and len(done.stderr.strip().splitlines()[-1:]) == 1
        return str(json.loads(done.stdout)["error"]["code"])

    recipe = run / "recipe.yaml"
    assert fails(recipe, "--out", run) == "run_exists"
    assert fails(recipe, "--out", run, "--resume", "--set", "seed=5") == "resume_settings"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert fails(recipe, "--out", tmp_path / "mine") == "folder_not_empty"
    extra = pictures / "late.png"
    Image.new("RGB", (40, 40)).save(extra)
    extra.with_suffix(".txt").write_text("came later")
    try:
        assert fails("--resume", "--out", run) == "resume_data"
    finally:
        extra.unlink()
        extra.with_suffix(".txt").unlink()


def test_the_proof_of_resuming(pictures: Path, tmp_path: Path) -> None:
    words = ("clip_pico", *SMALL, "--set", f"data={pictures}", "--set", "steps=12", "--out", tmp_path / "proof")
    done = train(*words, "--prove-resume", "--json")
    assert done.returncode == 0, done.stderr
    proof = json.loads(done.stdout)
    assert proof["same"] and proof["losses"] == 12 and proof["different"] == 0 and proof["tensors"] > 50
    assert "identical" in proof["verdict"]


def test_dry_run_counts_exactly() -> None:
    done = train("clip_vit_b_32_paper", "--dry-run", "--json")
    assert json.loads(done.stdout)["trainable"] == 151_277_313
    assert json.loads(done.stdout)["run"]["batch_size"] == 32768


def test_listing() -> None:
    rows = {row["name"]: row for row in json.loads(train("--list", "--json").stdout)}
    assert rows["llava_pico"] == {
        "name": "llava_pico", "family": "llava", "scale": "pico", "data": "generated scenes"
    }  # fmt: skip
    assert {"nano", "nano_dual"} <= set(rows)


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (("clip_pik",), "recipe_unknown", 1),
        (("clip_pico", "--set", "steps"), "usage", 2),
        (("clip_pico", "--max-bad", "much"), "usage", 2),
        (("clip_pico", "--set", "stps=3"), "setting_unknown", 1),
        (("clip_pico", "--set", "data=nowhere"), "data_missing", 1),
        (("clip_pico", "--set", "batch_size=5", "--set", "accumulate=2"), "batch_ragged", 1),
        (("clip_pico", "--set", "freeze=nothing_like_it"), "pattern_no_match", 1),
        (("clip_pico", "--set", "freeze=."), "nothing_learns", 1),
    ],
)
def test_mistakes_are_told_before_training(words: tuple[str, ...], code: str, exit_code: int, tmp_path: Path) -> None:
    done = train(*words, "--out", tmp_path / "run", "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (exit_code, code)
    assert not (tmp_path / "run" / "checkpoints").exists()
