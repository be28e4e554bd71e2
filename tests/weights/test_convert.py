"""Pickles: converted in a process of their own, and nothing in them is ever run."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from chiasm.core.errors import CheckpointError, SourceError
from chiasm.weights.checkpoint import open_checkpoint
from chiasm.weights.convert import cache_folder, convert, converted

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.steps": torch.tensor(7)}


class Touch:
    """Pickles into an instruction to create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, (str(self.target), "w"))  # type: ignore[return-value]


def same(folder: Path) -> bool:
    back = open_checkpoint(folder)
    return sorted(back) == sorted(STATE) and all(torch.equal(back[name], STATE[name]) for name in STATE)


def test_a_folder_with_its_side_files(tmp_path: Path) -> None:
    source = tmp_path / "old"
    source.mkdir()
    torch.save(STATE, source / "pytorch_model.bin")
    (source / "config.json").write_text(json.dumps({"model_type": "clip"}))
    (source / "run.py").write_text("raise SystemExit")
    torch.save({"lr": 1}, source / "scheduler.pt")
    report = convert(source, tmp_path / "new")
    assert same(tmp_path / "new") and (report.tensors, report.skipped) == (2, {})
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(CheckpointError, match="out_exists"):
        convert(source, tmp_path / "new")


def test_open_clip_s_names(tmp_path: Path) -> None:
    source = tmp_path / "old"
    source.mkdir()
    torch.save(STATE, source / "open_clip_pytorch_model.bin")
    (source / "open_clip_config.json").write_text("{}")
    assert convert(source, tmp_path / "new").files == ("open_clip_model.safetensors", "open_clip_config.json")
    assert same(tmp_path / "new")


def test_wrapped_states_and_what_lies_beside(tmp_path: Path) -> None:
    inner = {**STATE, "note": "hello"}
    torch.save({"model": inner, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "run.pth")
    report = convert(tmp_path / "run.pth", tmp_path / "out")
    assert same(tmp_path / "out")
    assert report.skipped == {"epoch": "int", "optimizer": "dict", "note": "str"}


def test_shards(tmp_path: Path) -> None:
    source = tmp_path / "old"
    source.mkdir()
    weight_map = {}
    for number, (name, tensor) in enumerate(STATE.items()):
        torch.save({name: tensor}, source / f"pytorch_model-{number}.bin")
        weight_map[name] = f"pytorch_model-{number}.bin"
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert len(convert(source, tmp_path / "new").sources) == 2 and same(tmp_path / "new")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, legacy: bool) -> None:
    trap, bomb = tmp_path / "touched", tmp_path / "evil.bin"
    if legacy:
        bomb.write_bytes(pickle.dumps({"a": Touch(trap)}))
    else:
        torch.save({"a": STATE["a.weight"], "b": Touch(trap)}, bomb)
    with pytest.raises(CheckpointError) as caught:
        convert(bomb, tmp_path / "out")
    assert caught.value.code == "pickle_unsafe" and "\n" not in str(caught.value)
    assert not trap.exists() and not list((tmp_path / "out").glob("*"))
    torch.load(bomb, weights_only=False) if not legacy else pickle.loads(bomb.read_bytes())
    assert trap.exists(), "the trap itself must work, or this test proves nothing"


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "text.bin").write_text("hello")
    with pytest.raises(CheckpointError) as caught:
        convert(tmp_path / "text.bin", tmp_path / "out")
    assert caught.value.code.startswith("pickle_") and "\n" not in str(caught.value)
    torch.save({"epoch": 3}, tmp_path / "empty.bin")
    with pytest.raises(CheckpointError, match="pickle_empty"):
        convert(tmp_path / "empty.bin", tmp_path / "out")
    with pytest.raises(SourceError, match="source_missing"):
        convert(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(SourceError, match="2 pickled checkpoints"):
        convert(tmp_path, tmp_path / "out")


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    torch.save(STATE, tmp_path / "w.pth")
    first = converted(tmp_path / "w.pth")
    stamp = first.stat().st_mtime_ns
    assert first.is_relative_to(cache_folder()) and same(first)
    assert converted(tmp_path / "w.pth") == first and first.stat().st_mtime_ns == stamp
    torch.save({**STATE, "more": torch.zeros(1)}, tmp_path / "w.pth")
    assert converted(tmp_path / "w.pth") != first
