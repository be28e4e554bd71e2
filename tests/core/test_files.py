"""Files are there whole or not at all."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from chiasm.core.files import LEFTOVER, holds_nothing, replacing, write_text


def test_a_file_is_replaced_at_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    write_text(path, "old")
    with replacing(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old" and beside.suffix == ".json" and beside.parent == tmp_path
    assert path.read_text() == "new" and [entry.name for entry in tmp_path.iterdir()] == ["settings.json"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as beside:
        beside.write_text("half")
        _ = 1 / 0
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["settings.json"]


def test_what_a_killed_writer_leaves_counts_as_nothing(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with replacing(tmp_path / "recipe.yaml") as beside:
            beside.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = [entry.name for entry in tmp_path.iterdir()]
    assert len(left) == 1 and left[0].startswith(LEFTOVER) and holds_nothing(tmp_path)
    (tmp_path / "thesis.txt").write_text("x")
    assert not holds_nothing(tmp_path)
