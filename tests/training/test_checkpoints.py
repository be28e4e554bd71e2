"""Checkpoints: proved by hashes, two kept, a broken newest one is set aside, a full disk leaves the last valid."""

import errno
import json
import shutil

import pytest
import torch

from chiasm.core.errors import CheckpointError
from chiasm.training import checkpoints


def tensors(value):
    return {"model/a": torch.full((3, 4), float(value)), "optimizer/a/step": torch.tensor(float(value))}


def save(folder, *steps):
    for step in steps:
        checkpoints.save(folder, step, tensors(step), {"data": "x"})


def test_what_is_stored_comes_back_and_two_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    found = checkpoints.load(tmp_path)
    assert found.name == "step-00000003" and checkpoints.read_state(found) == {"step": 3, "data": "x"}
    back = checkpoints.read_tensors(found)
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors(3).items())
    assert {path.suffix for path in found.iterdir()} == {".safetensors", ".json"}
    assert checkpoints.load(tmp_path / "nothing") is None


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


BREAK = {
    "a flipped bit": lambda c: flip(c / "rank-00000.safetensors"),
    "a short file": lambda c: (c / "rank-00000.safetensors").write_bytes(b"short"),
    "a missing file": lambda c: (c / "state.json").unlink(),
    "no manifest": lambda c: (c / "manifest.json").unlink(),
    "a manifest that is no JSON": lambda c: (c / "manifest.json").write_text("{"),
    "a manifest of another shape": lambda c: (c / "manifest.json").write_text("[1]"),
    "an empty manifest": lambda c: (c / "manifest.json").write_text("{}"),
}


@pytest.mark.parametrize("way", BREAK)
def test_a_broken_newest_falls_back_and_says_so(tmp_path, way):
    save(tmp_path, 1, 2)
    BREAK[way](tmp_path / "step-00000002")
    said = []
    assert checkpoints.load(tmp_path, said.append).name == "step-00000001"
    assert len(said) == 1 and "step-00000002 is broken" in said[0] and "step-00000001" in said[0]
    save(tmp_path, 2)
    assert checkpoints.load(tmp_path, said.append).name == "step-00000002" and len(said) == 1


def test_no_whole_checkpoint_is_an_error_not_a_new_start(tmp_path):
    save(tmp_path, 1, 2)
    for path in list(tmp_path.iterdir()):
        flip(path / "state.json")
    with pytest.raises(CheckpointError, match=r"checkpoint_corrupt.*0 of 2"):
        checkpoints.load(tmp_path)


def test_what_a_killed_save_left_is_no_checkpoint(tmp_path):
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000002")
    assert checkpoints.load(tmp_path).name == "step-00000001"
    assert not (tmp_path / ".step-00000002").exists()


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    save(tmp_path, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5, 5))
    with pytest.raises(
        CheckpointError, match=r"disk_full.*needs 52 bytes, 5 are free; the last checkpoint is step-00000001"
    ):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_disk_that_fills_up_meanwhile_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "sync", full)
    with pytest.raises(CheckpointError, match=r"disk_full.*step-00000001"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert json.loads((checkpoints.load(tmp_path) / "state.json").read_text())["step"] == 1
