"""`verify`'s vectors: a faithful copy passes, any change of weights, pixels or files is told."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import chiasm
from chiasm.core.errors import ChiasmError
from chiasm.weights.golden import STEM, check_golden, synthetic_pictures, write_golden

FAMILIES = ("clip", "siglip", "llava", "llava_next")


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / request.param
    chiasm.new(request.param, tiny=True).save(folder)
    write_golden(chiasm.load(folder), folder)
    return folder


def test_pictures_are_the_same_everywhere() -> None:
    digest = hashlib.sha256(b"".join(picture.tobytes() for picture in synthetic_pictures())).hexdigest()
    assert digest == "29374db81d2b8b77a199159e438e7423a3d9757f098ee49cc97793ad4041335d"


def test_a_faithful_copy_passes(checkpoint: Path) -> None:
    report = check_golden(chiasm.load(checkpoint), checkpoint)
    assert report.passed, [check for check in report.checks if not check.passed]
    names = [check.name for check in report.checks]
    assert names[0] == "tensors" and "pixels" in names and "logits" in names and any("batch" in name for name in names)
    assert report.tensors > 20 and report.used >= report.tensors - 2


def test_a_changed_weight_is_told(checkpoint: Path) -> None:
    model = chiasm.load(checkpoint)
    with torch.no_grad():
        model.module.vision.blocks[0].mlp.fc1.weight.mul_(1.05)
    failed = [check for check in check_golden(model, checkpoint).checks if not check.passed]
    assert failed and all(check.name != "pixels" for check in failed)
    assert all(check.worst is not None and check.worst > (check.limit or 0) for check in failed)


def test_missing_and_damaged_vectors(checkpoint: Path, tmp_path: Path) -> None:
    model = chiasm.load(checkpoint)
    copy = tmp_path / "copy"
    model.save(copy)
    report = check_golden(model, copy)
    assert not report.passed and "--write" in report.checks[1].detail
    write_golden(model, copy)
    file = copy / f"{STEM}.safetensors"
    vectors = load_file(file)
    save_file({name: tensor for name, tensor in vectors.items() if name != "logits"}, file)
    assert not check_golden(model, copy).passed
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ChiasmError, match="safetensors_damaged"):
        check_golden(model, copy)


def test_golden_files_don_t_disturb_loading(checkpoint: Path) -> None:
    assert (checkpoint / f"{STEM}.safetensors").stat().st_size < 2**21
    chiasm.load(checkpoint)
