"""A folder's settings with values that nobody looks for there: one line that says so, never a traceback."""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import chiasm
from chiasm.cli import main
from chiasm.core.errors import ChiasmError, ConfigError
from chiasm.nn.norms import RMSNorm
from chiasm.weights.malformed import said_by

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


def takes_one(value: int) -> int:
    return value


def unwritten(stored: Any) -> None:
    raise NotImplementedError("not yet")


@pytest.mark.parametrize(
    "read",
    [
        lambda stored: stored["missing"],
        lambda stored: stored["side"].get("shortest_edge"),
        lambda stored: stored["nothing"].lower(),
        lambda stored: int(stored["name"]),
        lambda stored: stored["side"] // 0,
        lambda stored: stored["side"] + stored["name"],
        lambda stored: stored["sides"][3],
        lambda stored: {1: 2}[stored["name"]],
        lambda stored: torch.empty(stored["less"]),
    ],
)
def test_what_a_stored_value_brings_about_is_the_folders_fault(read: Callable[[dict[str, Any]], Any]) -> None:
    stored = {"side": 3, "name": "x", "nothing": None, "sides": [1], "less": -1}
    with pytest.raises(ConfigError) as caught, said_by(Path("there")):
        read(stored)
    assert caught.value.code == "config_malformed" and caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (lambda stored: stored["norm"].wide, AttributeError),
        (lambda stored: torch.no_such_function, AttributeError),
        (lambda stored: Path("x").no_such_method(), AttributeError),
        (lambda stored: takes_one(), TypeError),
        (lambda stored: takes_one(1, 2), TypeError),
        (lambda stored: takes_one(1, value=stored), TypeError),
        (lambda stored: takes_one(other=stored), TypeError),
        (unwritten, NotImplementedError),
        (lambda stored: no_such_name, NameError),  # type: ignore[name-defined]  # noqa: F821
    ],
)
def test_what_no_stored_value_brings_about_goes_through(
    read: Callable[[dict[str, Any]], Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind), said_by(Path("there")):
        read({"norm": RMSNorm(4)})


def test_a_mistake_of_ours_while_a_folder_is_read_is_told_as_ours(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("chiasm.weights.load.build_on_meta", lambda config: config.no_such_field)
    assert main(["inspect", str(folder), "a question", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "internal"


@pytest.mark.parametrize("family", ["clip", "llava", "kimi_vl", "albef", "blip", "flamingo"])
@pytest.mark.parametrize("count", [10**6, 10**18])
def test_endless_layers_and_experts_are_refused_before_anything_is_built(family, count, tiny_folder, tmp_path) -> None:
    folder = tmp_path / "endless"
    shutil.copytree(tiny_folder(family), folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))

    def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        for key, inner in value.items() if isinstance(value, dict) else ():
            if isinstance(inner, int) and re.search("layers?$|depth$|experts$", key):
                yield (*path, key)
            yield from places(inner, (*path, key))

    found = list(places(config))
    assert found
    for *path, last in found:
        broken = copy.deepcopy(config)
        inner = broken
        for key in path:
            inner = inner[key]
        inner[last] = count
        (folder / "config.json").write_text(json.dumps(broken), "utf-8")
        with pytest.raises(ConfigError) as caught:
            chiasm.load(folder)
        assert caught.value.code == "config_value" and str(count) in str(caught.value)
