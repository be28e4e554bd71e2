"""Checkpoint folders: what is read, what is refused and how it is said, and writes that are whole or not there."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from chiasm.core.errors import CheckpointError, ChiasmError, ConfigError, SourceError
from chiasm.weights import checkpoint as checkpoints
from chiasm.weights.checkpoint import load_state, open_checkpoint, read_config, save_state
from chiasm.weights.files import read_header, write_json
from chiasm.weights.rules import Rename
from chiasm.weights.table import Table

STATE = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.ones(3), "b.weight": torch.full((2, 3), 2.0)}
TABLE = Table((Rename("a.{p}", "0.{p}"), Rename("b.weight", "1.weight")))


def module() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, bias=False))


def load(folder: Path, **options: object) -> nn.Module:
    model = module()
    load_state(model, open_checkpoint(folder), TABLE, **options)  # type: ignore[arg-type]
    return model


def code(error: pytest.ExceptionInfo[ChiasmError]) -> str:
    assert "\n" not in str(error.value)
    return error.value.code


def test_saved_and_loaded_again(tmp_path: Path) -> None:
    save_state(tmp_path, STATE)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    model = load(tmp_path)
    assert torch.equal(model.state_dict()["0.weight"], STATE["a.weight"])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_report_and_dtype(tmp_path: Path) -> None:
    save_state(tmp_path, {**STATE, "b.weight": STATE["b.weight"].half()})
    model = module()
    report = load_state(model, open_checkpoint(tmp_path), TABLE, dtype=torch.bfloat16)
    assert (report.tensors, report.filled, report.files, report.dtypes) == (3, 3, 1, ("F16", "F32"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_shards_with_an_index(tmp_path: Path) -> None:
    save_state(tmp_path, STATE, shard_bytes=60)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)] + ["model.safetensors.index.json"]
    load(tmp_path)
    save_state(tmp_path, STATE)  # one file again: the shards and their index must go
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def _index(folder: Path) -> dict:
    return json.loads((folder / "model.safetensors.index.json").read_text())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m.update({"c": "model-00003-of-00003.safetensors"}), "shard_missing"),
        (lambda m: m.update({"b.weight": "../outside.safetensors"}), "index_escapes"),
        (lambda m: m.update({"b.weight": "/etc/passwd"}), "index_escapes"),
        (lambda m: m.update({"b.weight": ".."}), "index_escapes"),
        (lambda m: m.update({"c": m["b.weight"]}), "tensor_missing"),
        (lambda m: m.update({"a.weight": m["b.weight"]}), "index_mismatch"),
        (lambda m: m.pop("a.bias"), "index_mismatch"),
    ],
)
def test_a_lying_index_is_refused(tmp_path: Path, change: object, expected: str) -> None:
    save_state(tmp_path, STATE, shard_bytes=60)
    index = _index(tmp_path)
    change(index["weight_map"])  # type: ignore[operator]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    assert code(caught) == expected


def test_a_stray_shard_and_a_tensor_in_two_shards_are_refused(tmp_path: Path) -> None:
    save_state(tmp_path, STATE, shard_bytes=60)
    stray = tmp_path / "model-00003-of-00003.safetensors"
    save_file({"c": torch.zeros(1)}, stray)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    assert code(caught) == "shard_unexpected"
    save_file({"a.bias": torch.zeros(3), "c": torch.zeros(1)}, stray)
    index = _index(tmp_path)
    index["weight_map"]["c"] = stray.name
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    assert code(caught) == "tensor_duplicate"


def test_both_forms_at_once_are_ambiguous(tmp_path: Path) -> None:
    save_state(tmp_path, STATE, shard_bytes=60)
    save_file(STATE, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    assert code(caught) == "weights_ambiguous"


def _raw(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


ONE = b'"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        (b"{" + ONE + b"}", b"\0" * 7, None),  # truncated
        (b"{" + ONE + b"}", b"\0" * 9, None),  # a byte too many
        (b"{" + ONE + b", " + ONE + b"}", b"\0" * 8, None),  # the same name twice
        (b"{" + ONE + b', "y": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', b"\0" * 8, None),  # overlap
        (b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}', b"\0" * 12, None),  # a gap
        (b'{"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}', b"\0" * 8, None),
        (b'{"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, -8]}}', b"\0" * 8, None),
        (b'{"x": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}', b"\0" * 8, None),
        (b'{"x": 3}', b"", None),
        (b"[1, 2]", b"", None),
        (b"not json", b"", None),
        (b"{}", b"", 2**40),  # a header longer than the file
    ],
)
def test_damaged_headers_are_refused(tmp_path: Path, header: bytes, data: bytes, length: int | None) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_header(_raw(tmp_path / "model.safetensors", header, data, length))
    assert code(caught) == "safetensors_damaged"


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="safetensors_damaged"):
        open_checkpoint(tmp_path)


def test_pickles_are_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    assert code(caught) == "pickle_refused" and f"chiasm convert {tmp_path} --out" in str(caught.value)


def test_nothing_is_half_loaded(tmp_path: Path) -> None:
    save_state(tmp_path, {**STATE, "b.weight": torch.zeros(5, 5)})
    model = module()
    with pytest.raises(CheckpointError, match="b.weight is 5×5, needed 2×3"):
        load_state(model, open_checkpoint(tmp_path), TABLE)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nonfinite_weights_are_refused_by_name(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    weight = STATE["a.weight"].clone().to(dtype)
    weight[1, 2] = value
    save_state(tmp_path, {**STATE, "a.weight": weight})
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert (
        code(caught) == "weights_nonfinite"
        and "1 of 3 tensors" in str(caught.value)
        and "0.weight" in str(caught.value)
    )
    load(tmp_path, allow_nonfinite=True)


def test_views_and_shared_storage_are_written_whole(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    state = {"base": base, "same": base, "row": base[1], "turned": base.T, "part": base[:, :2]}
    save_state(tmp_path, state)
    back = open_checkpoint(tmp_path)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    assert back.num_bytes == sum(tensor.nbytes for tensor in state.values())


def test_a_failed_write_leaves_the_old_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, STATE)
    before = (tmp_path / "model.safetensors").read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_state(tmp_path, {"a.weight": torch.zeros(9)})
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_saving_over_the_files_one_was_loaded_from(tmp_path: Path) -> None:
    save_state(tmp_path, STATE)
    model = load(tmp_path)
    save_state(tmp_path, TABLE.to_theirs(model.state_dict()))
    assert all(torch.equal(open_checkpoint(tmp_path)[name], tensor) for name, tensor in STATE.items())
    assert torch.equal(model.state_dict()["0.weight"], STATE["a.weight"])


def test_configs(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="folder_missing"):
        read_config(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="config_missing"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ConfigError, match="json_malformed"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="json_malformed"):
        read_config(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "clip", "auto_map": {"AutoModel": "evil.Model"}})
    assert read_config(tmp_path) == {"model_type": "clip"}
