"""`chiasm eval` as a user runs it, on a tiny model and a made-up copy of POPE."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


def chiasm(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "chiasm", *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pope")
    (folder / "val2014").mkdir()
    rows = []
    for number in range(4):
        Image.new("RGB", (40, 30), (60 * number, 20, 90)).save(folder / "val2014" / f"{number}.jpg")
        for at, label in enumerate(("yes", "no")):
            text = f"Is there a {('dog', 'cat')[at]} in the image?"
            rows.append({"question_id": 2 * number + at, "image": f"{number}.jpg", "text": text, "label": label})
    (folder / "coco_pope_random.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_run_a_second_scoring_and_a_comparison(
    tiny_folder: Callable[[str], Path], copy: Path, tmp_path: Path
) -> None:
    model = str(tiny_folder("llava"))
    runs = []
    for size in ("1", "4", "16"):
        words = ("--tasks", "pope,stamps_retrieval", "--data", str(copy), "--out", str(tmp_path / size))
        done = chiasm("eval", model, *words, "--batch-size", size, "--json")
        found = json.loads(done.stdout)
        assert found["skipped"].keys() == {"stamps_retrieval"} and found["n-samples"]["pope"]["effective"] == 8
        runs.append(
            [(tmp_path / size / name).read_bytes() for name in ("report.html", "results.json", "manifest.json")]
        )
    assert runs[0] == runs[1] == runs[2], "no byte depends on the batch size"
    again = chiasm("eval", "--rescore", str(tmp_path / "1"), "--against", str(tmp_path / "4"))
    assert "report.html" in again.stdout and "less the other run +0.0000" in again.stdout
    assert b"data:image/png;base64," in runs[0][0]
    refused = chiasm("eval", model, "--tasks", "pope", "--data", str(copy), "--out", str(tmp_path / "1"), code=1)
    assert "error[out_exists]" in refused.stderr


def test_what_is_refused(tmp_path: Path) -> None:
    assert "error[task_unknown]" in chiasm("eval", "nano", "--tasks", "scnes", code=1).stderr
    assert "error[usage]" in chiasm("eval", "nano", code=2).stderr
    assert "error[run_incomplete]" in chiasm("eval", "--rescore", str(tmp_path), code=1).stderr


def test_the_list_of_tasks() -> None:
    rows = json.loads(chiasm("eval", "--list", "--json").stdout)
    assert {"scenes", "stamps_retrieval", "vqav2", "pope", "refcoco", "charades_sta"} <= {row["name"] for row in rows}
