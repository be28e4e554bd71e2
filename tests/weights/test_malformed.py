"""A folder's settings with values that nobody looks for there: one line that says so, never a traceback."""

from __future__ import annotations

import copy
import dataclasses
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
from chiasm.core.registry import family
from chiasm.nn.norms import RMSNorm
from chiasm.weights.malformed import said_by

JUNK: tuple[Any, ...] = (
    None, -1, 0, 3, 10**6, 10**12, 1.5, -2.5, True, "x", "", "../x", [], [1], [1, 2, 3], {}, {"a": 1}, float("nan"),
)  # fmt: skip


@pytest.fixture(scope="module", params=["llava", "clip", "qwen2_vl", "internvl", "internvl_c", "vse"])
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


def test_the_folder_and_the_value_are_named(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"error\[config_malformed\]: .*model: its configuration") as caught:
        chiasm.load(changed(tiny_folder("llava"), tmp_path / "model", "architectures", 3))
    assert isinstance(caught.value.__cause__, TypeError)
    assert "can't be used: architectures is 3 ('int' object" in str(caught.value)


def changed(folder: Path, into: Path, place: str, value: Any) -> Path:
    """A copy of a folder, one value of its config.json another."""
    shutil.copytree(folder, into)
    stored = inner = json.loads((into / "config.json").read_text("utf-8"))
    *path, last = (int(key) if key.isdigit() else key for key in place.split("."))
    for key in path:
        inner = inner[key]
    inner[last] = value
    (into / "config.json").write_text(json.dumps(stored), "utf-8")
    return into


@pytest.mark.parametrize(
    ("family", "place", "value", "told"),
    [
        ("internvl", "max_patches", 10**5, "config.max_tiles is 100000, not a whole number from 0 to 1024"),
        ("minigpt4", "config.vision.num_heads", -1, "config.vision.num_heads is -1, not a whole number from 1"),
        ("flamingo", "config.language.hidden_dim", 0, "config.language.hidden_dim is 0, not a whole number from 1"),
        ("nano", "config.vision.image_size", 2**20, "config.vision.image_size is 1048576, not a whole"),
        ("internvl", "text_config.rms_norm_eps", -2.5, "config.language.norm_eps is -2.5, not a number from 0"),
        ("kimi_vl", "vision_config.num_attention_heads", 10**30, "config.vision.num_heads is 1000"),
        ("kimi_vl", "text_config.num_experts_per_tok", 2**20, "a token takes 1048576 experts of 8"),
        ("kimi_vl", "text_config.topk_group", 7, "experts of 7 groups of 4, in which 8 experts"),
        ("llava", "projector_hidden_act", [1], "config.connector.act is [1], not str"),
        ("vse", "config.vision.stages.0.0", 2**31 - 1, "takes over 50000 steps to build"),
        ("blip2_retrieval", "config.connector.output_dim", 7, "(assert shape.text is not None"),
        ("internvl_c", "config.language.inner_norms", True, "config.language.inner_norms is True (a gated MLP has no"),
        ("xcomposer", "image_token_id", 2**20, "config.json names token 1048576, the tokenizer has"),
        ("nano", "frozen", [3], "config.json.frozen is [3], not parts and their towers"),
        ("qwen2_vl", "text_config.rope_parameters", 3, "rope_parameters is a int, not an object"),
    ],
)
def test_a_value_is_told_with_what_can_stand_there(family, place, value, told, tiny_folder, tmp_path) -> None:
    folder = changed(tiny_folder(family), tmp_path / "broken", place, value)
    with pytest.raises(ConfigError) as caught:
        chiasm.load(folder)
    assert told in str(caught.value)


def test_a_tokenizers_fault_is_not_laid_on_the_configuration(tiny_folder, tmp_path, monkeypatch) -> None:
    folder = changed(tiny_folder("llava"), tmp_path / "broken", "projector_hidden_act", "gelu")

    def fails(config: Any, parts: Any) -> None:
        raise KeyError("no such word")

    has = family("llava")
    monkeypatch.setattr("chiasm.weights.load.family", lambda name: dataclasses.replace(has, processor=fails))
    with pytest.raises(ConfigError, match=r"can't be used \(nothing is known by the name 'no such word'\)"):
        chiasm.load(folder)


def test_a_line_stays_one_whatever_stands_in_the_file(tiny_folder, tmp_path) -> None:
    folder = changed(tiny_folder("clip"), tmp_path / "broken", "model_type", "x\n" * 10**6)
    with pytest.raises(ConfigError) as caught:
        chiasm.load(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 2000


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
