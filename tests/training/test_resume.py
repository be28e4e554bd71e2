"""Killed runs end as those that nobody disturbed, bit for bit: at random steps, at every durable call of one save."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from chiasm.core.files import LEFTOVER

SCRIPT = Path(__file__).with_name("killed_runs.py")


def killed_runs(*words: object) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(10):
        Image.new("RGB", (40, 40), (25 * number, 200 - 20 * number, 90)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a square, number {number}")
    return folder


@pytest.mark.parametrize("family", ["clip", "llava"])
def test_kill_9_at_random_steps(family: str, pictures: Path, tmp_path: Path) -> None:
    begun = tmp_path / "cut" / "run"
    begun.mkdir(parents=True)
    (begun / f"{LEFTOVER}0.yaml").write_text("recipe: cl")  # a run that was killed as it stored its settings
    came = killed_runs("steps", family, pictures, tmp_path, 10)
    assert len(came["killed"]) == 10
    assert came["losses"] and came["tensors"] and came["steps"] == 60 and came["compared"] > 50, came


def test_kill_9_and_a_full_disk_at_every_durable_call_of_one_save(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        if os.environ.get("CHIASM_CI") or os.environ.get("CI"):
            pytest.fail("strace is missing: apt-get install strace")
        pytest.skip("needs strace")
    came = killed_runs("calls", tmp_path)
    assert came["wrong"] == []
    assert came["calls"]["fsync"] >= 5 and came["calls"]["rename"] == 1 and came["cases"] >= 20
    assert set(came["valid"]) == {"step-00000004", "step-00000006"}
