"""The published description holds: schemathesis finds no answer that it doesn't promise, and none above 499."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.serving.live import Live

import chiasm
from chiasm.search.index import PictureIndex
from chiasm.serving.engine import BatchingEngine
from chiasm.serving.local import LocalHost
from chiasm.serving.searching import Searched
from chiasm.serving.settings import Settings

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def live(tiny_folder: Callable[[str], Path], index: PictureIndex, tmp_path_factory: pytest.TempPathFactory) -> Live:
    hosts = {name: LocalHost(BatchingEngine(chiasm.load(str(tiny_folder(name))))) for name in ("llava", "clip")}
    searched = dict.fromkeys(("mine", "theirs"), Searched(index, "clip"))  # of two, one must be named
    return Live(hosts, Settings(max_new_tokens=64), tmp_path_factory.mktemp("live"), searched)


@pytest.mark.parametrize("hooked", [False, True], ids=["as generated", "with served models and real pictures"])
def test_schemathesis_finds_nothing(live: Live, tmp_path: Path, hooked: bool) -> None:
    # What the hook mends is no longer what was generated, so only the answers are judged then.
    without = ["--exclude-checks", "positive_data_acceptance,negative_data_rejection"] if hooked else []
    hooks = {"SCHEMATHESIS_HOOKS": "tests.serving.fuzz_hooks", "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}"}
    words = ["run", f"{live.url}/openapi.json", "--phases", "fuzzing", "-n", "6", "--seed", "7", "--no-color", *without]
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", *words],
        cwd=tmp_path,
        env={**os.environ, **(hooks if hooked else {})},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "11 passed" in done.stdout
