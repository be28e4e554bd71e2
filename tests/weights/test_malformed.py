"""A folder's settings with values that nobody looks for there: one line that says so, never a traceback."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import chiasm
from chiasm.core.errors import ChiasmError, ConfigError

JUNK: tuple[Any, ...] = (
    None, -1, 0, 3, 10**6, 10**12, 1.5, -2.5, True, "x", "", "../x", [], [1], [1, 2, 3], {}, {"a": 1}, float("nan"),
)  # fmt: skip


@pytest.fixture(scope="module", params=["llava", "clip", "qwen2_vl", "internvl"])
def folder(request, tmp_path_factory) -> Path:
    place: Path = tmp_path_factory.mktemp("malformed") / request.param
    chiasm.new(request.param).save(place)
    return place


def places(stored: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) inside."""
    items = stored.items() if isinstance(stored, dict) else enumerate(stored) if isinstance(stored, list) else ()
    for key, value in items:
        yield stored, key
        yield from places(value)


def test_what_stands_where_it_can_not_is_refused_or_harmless(folder: Path, tmp_path: Path) -> None:
    names = [path.name for path in folder.glob("*.json") if path.name != "tokenizer.json"]
    refused = 0
    for seed in range(40):
        rng = random.Random(seed)
        name = rng.choice([*names, "config.json"])
        stored = json.loads((folder / name).read_text("utf-8"))
        container, key = rng.choice(list(places(stored)))
        if isinstance(container, dict) and rng.random() < 0.25:
            del container[key]
        else:
            container[key] = rng.choice(JUNK)
        broken = tmp_path / str(seed)
        shutil.copytree(folder, broken)
        (broken / name).write_text(json.dumps(stored), "utf-8")
        try:
            chiasm.load(broken)
        except ChiasmError as error:
            refused += 1
            assert "\n" not in str(error), (seed, name, key)
        shutil.rmtree(broken)
    assert refused >= 5


def test_the_folder_is_named(tmp_path: Path) -> None:
    chiasm.new("llava").save(tmp_path / "model")
    stored = json.loads((tmp_path / "model" / "config.json").read_text("utf-8"))
    (tmp_path / "model" / "config.json").write_text(json.dumps(stored | {"projector_hidden_act": [1]}), "utf-8")
    with pytest.raises(ConfigError, match=r"error\[config_malformed\]: .*model: its configuration") as caught:
        chiasm.load(tmp_path / "model")
    assert isinstance(caught.value.__cause__, TypeError)
