"""What the readers' tests share: an own cache, and a folder of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.broken_shards import picture


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that other tests have kept is found."""
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with three pictures of 24×20 pixels in `images/`."""
    folder = tmp_path / "home"
    (folder / "images").mkdir(parents=True)
    for i in range(3):
        (folder / "images" / f"{i}.jpg").write_bytes(picture(i))
    return folder
