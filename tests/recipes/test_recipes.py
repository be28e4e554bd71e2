"""Every recipe: its run survives the file and back, paper scale counts its parameters, words change settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import chiasm
from chiasm.core.errors import ChiasmError, ConfigError
from chiasm.nn.positions import resize_grid
from chiasm.recipes.run import SCALES, Run, Source, Tiny, find_recipe, recipes
from chiasm.recipes.running import carry
from chiasm.recipes.running.carry import Manner, carry_out, counts
from chiasm.recipes.running.settings import changed, differences, read_run, resolve, write_run
from chiasm.recipes.running.starting import take_over
from chiasm.training.logs import read_log
from chiasm.weights.load import layout_for_config
from chiasm.weights.meta import build_on_meta

PUBLISHED = {
    "clip_vit_b_32_paper": 151_277_313,
    "clip_vit_l_14_paper": 427_616_513,
    "clip_rn50_paper": 102_007_137,
    "siglip_b_16_224_paper": 203_155_970,
    "siglip_so400m_14_384_paper": 877_960_498,
    "llava_7b_align_paper": 1024 * 4096 + 4096,
    "llava_1_5_7b_align_paper": 20_979_712,
    "llava_1_5_7b_paper": 6_759_919_616,
    "llava_next_vicuna_7b_paper": 7_063_431_168,
    "vse_vgg19_paper": 5_478_000,  # the map from VGG-19, word vectors of 300, an LSTM of 300
    "vsepp_resnet152_paper": 9_698_148,
    "align_l2_paper": 802_722_485,  # paper: 480M and 335M
    "vilt_b_32_paper": 112_219_196,  # paper: 111M without the heads
    "albef_b_paper": 209_937_725,  # paper: 209.5M
    "blip_b_paper": 252_441_919,
    "blip_l_paper": 474_729_023,
    "coca_2b_paper": 2_497_965_953,  # paper: 2.1B with one MLP a fusion layer; the second of OpenCLIP's is 0.4B
}


@pytest.mark.parametrize("name", sorted(recipes()))
def test_a_run_survives_its_file(name: str, tmp_path: Path) -> None:
    recipe = recipes()[name]
    assert recipe.scale in SCALES and recipe.needs and recipe.family
    run = recipe.run()
    write_run(run, tmp_path / "recipe.yaml")
    assert read_run(tmp_path / "recipe.yaml") == run == resolve(str(tmp_path / "recipe.yaml"))
    if run.after is not None:
        assert find_recipe(run.after).family


@pytest.mark.parametrize("name", sorted(name for name, known in recipes().items() if known.scale == "paper"))
def test_paper_scale_is_counted_without_a_weight(name: str) -> None:
    total = counts(recipes()[name].run())["total"]
    assert 0 < total["trainable"] <= total["all"]
    if name in PUBLISHED:
        assert total["trainable"] == PUBLISHED[name]


def test_every_family_has_three_scales() -> None:
    bundled = {"nano", "nano_dual"}  # models of one scale
    for family in set(chiasm.families()) - bundled:
        assert {known.scale for known in recipes().values() if known.family == family} == set(SCALES), family


def test_words_change_settings() -> None:
    run = resolve(
        "clip-pico",
        [
            "steps=5", "optimizer=Muon", "optimizer.momentum=0.5", 'data=["a","b"]', "data.1.weight=2", "clip=null",
            "groups.0.learning_rate=1", "schedule.warmup=3", "model=Tiny", "freeze=^vision", "bf16=true",
        ],
    )  # fmt: skip
    assert run.steps == 5 and run.clip is None and run.freeze == ("^vision",) and run.bf16
    assert type(run.optimizer).__name__ == "Muon" and run.optimizer.momentum == 0.5  # type: ignore[attr-defined]
    assert [(source.name, source.weight) for source in run.data] == [("a", 1.0), ("b", 2.0)]
    assert run.groups[0].learning_rate == 1.0 and type(run.model).__name__ == "Tiny"
    assert resolve("clip_pico", ["data=/a/b,c"]).data[0].name == "/a/b,c"


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ("stps=2", "setting_unknown", "nearest is 'steps'"),
        ("schedule.warmpu=2", "setting_unknown", "nearest is 'schedule.warmup'"),
        ("optimzer.eps=2", "setting_unknown", "nearest is 'optimizer"),
        ("data.7.name=a", "setting_unknown", "places"),
        ("seed.x=1", "setting_unknown", "part that has none"),
        ("optimizer=Mun", "setting_type", "nearest is muon"),
        ("seed=abc", "setting_type", "not int"),
        ("groups=3", "setting_type", "not a list"),
        ("steps=0", "setting_range", "steps is 0, the least is 1"),
        ("parallel=tensor", "setting_range", "tensor"),
        ("lora.rank=2", "setting_unknown", "part that has none"),
        ("data=[]", "setting_range", "data holds nothing"),
        ("groups.0.learning_rate=-1", "setting_range", "groups.0.learning_rate is -1"),
        ("ema=2", "setting_range", "ema is 2"),
        ("threads=0", "setting_range", "threads is 0"),
    ],
)
def test_a_wrong_change_is_named(change: str, code: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        changed(recipes()["clip_pico"].run(), change)
    assert raised.value.code == code and words in raised.value.what


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("- 1", "recipe_unreadable"),
        ("a: [", "recipe_unreadable"),
        ("stps: 3", "setting_unknown"),
        (None, "recipe_unknown"),
    ],
)
def test_a_wrong_file_is_named(text: str | None, code: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        resolve(str(path))
    assert raised.value.code == code


def test_a_file_may_say_only_what_it_changes(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("recipe: clip_pico\nsteps: 7\n")
    run = resolve(str(tmp_path / "mine.yaml"))
    assert run == replace(recipes()["clip_pico"].run(), steps=7)


def small(folder: Path, name: str = "clip_pico", **settings: Any) -> Run:
    """A recipe over six pictures, two steps of two."""
    for number in range(6):
        Image.new("RGB", (40, 40), (40 * number, 200 - 20 * number, 90)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a square, number {number}")
    brief = {"steps": 2, "batch_size": 2, "checkpoint_every": 0, "threads": 1, "data": (Source(name=str(folder)),)}
    return replace(recipes()[name].run(), **{**brief, **settings})


def test_a_run_that_failed_before_its_first_step_may_be_corrected(tmp_path: Path) -> None:
    from chiasm.data.collation import Conversations

    (data := tmp_path / "data").mkdir()
    out, quiet = tmp_path / "run", Manner(show=False)
    run = small(data, model=Tiny())
    for wrong, code in (
        (replace(run, collate=Conversations()), "objective_mismatch"),
        (replace(run, learn=("(",)), "pattern_malformed"),
        (replace(run, data=(Source(name=str(tmp_path / "nowhere")),)), "data_missing"),
    ):
        with pytest.raises(ChiasmError, match=code):
            carry_out(wrong, out, quiet, print)
    with pytest.raises(ConfigError, match="device_unavailable"):
        carry_out(run, out, Manner(show=False, device="gpu"), print)
    assert carry_out(run, out, quiet, print).step == 2
    with pytest.raises(ConfigError, match="run_exists"):
        carry_out(run, out, quiet, print)


def test_nobody_else_trains_in_a_run_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carry, "PATIENCE", 0.0)
    (data := tmp_path / "data").mkdir()
    (out := tmp_path / "run").mkdir()
    with carry._alone(out), pytest.raises(ConfigError, match="run_busy"), carry._alone(out):
        pass
    (out / ".lock").unlink()
    assert carry_out(small(data, model=Tiny()), out, Manner(show=False), print).step == 2


def test_bfloat16_is_left_to_processors_that_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data := tmp_path / "data").mkdir()
    run, losses = small(data, model=Tiny(), bf16=True), {}
    for narrow in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(carry, "narrow_type", lambda narrow=narrow: narrow)
        told: list[str] = []
        out = tmp_path / str(narrow)
        carry_out(run, out, Manner(show=False, device="cpu"), told.append)
        losses[narrow] = read_log(out / "log.jsonl")[0]["loss_hex"]
        assert any("no instructions" in line for line in told) == (narrow is torch.float32)
    carry_out(replace(run, bf16=False), tmp_path / "plain", Manner(show=False, device="cpu"), print)
    assert read_log(tmp_path / "plain" / "log.jsonl")[0]["loss_hex"] == losses[torch.float32] != losses[torch.bfloat16]


@pytest.mark.parametrize("name", sorted(n for n, r in recipes().items() if r.scale == "pico" and r.run().model))
def test_what_a_pico_recipe_saves_is_what_its_layout_reads(name: str) -> None:
    """A layout that leaves something of a configuration out would write a folder that doesn't load."""
    run = recipes()[name].run()
    assert run.model is not None
    config = run.model.skeleton(run.family)
    layout = layout_for_config(config)
    again = layout.config_from(json.loads(json.dumps(layout.config_to(config))))
    shapes = [{n: t.shape for n, t in build_on_meta(c).state_dict().items()} for c in (config, again)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ["vse_pico", "siglip_pico"])
def test_a_pico_recipe_trains_and_its_run_loads(name: str, tmp_path: Path) -> None:
    (data := tmp_path / "data").mkdir()
    assert carry_out(small(data, name), tmp_path / "run", Manner(show=False), print).step == 2
    model = chiasm.load(tmp_path / "run")
    assert model.name == recipes()[name].family or model.capabilities
    assert model.similarity([Image.new("RGB", (50, 40))], ["a cat"]).shape == (1, 1)


def test_a_part_of_a_run_s_weights_is_taken(tmp_path: Path) -> None:
    module, other = (chiasm.new("clip", tiny=True, seed=seed).module for seed in (1, 2))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    said: list[str] = []
    take_over(module, other, "other", said.append, ("^vision\\.",))
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, (other.state_dict() if name.startswith("vision.") else before)[name])
    with pytest.raises(ConfigError, match="init_mismatch"):
        take_over(module, other, "other", said.append, ("^nothing",))
    stranger = chiasm.new("siglip", tiny=True).module  # a tensor or two fit by chance
    with pytest.raises(ConfigError, match=r"init_mismatch") as caught:
        take_over(module, stranger, "stranger", said.append)
    assert "stranger" in caught.value.what and caught.value.hint and len(said) == 1


def test_a_tensor_of_another_shape_is_named_and_positions_are_interpolated() -> None:
    class Tower(torch.nn.Module):
        def __init__(self, places: int, width: int) -> None:
            super().__init__()
            self.vision = torch.nn.Module()
            self.vision.pos_embed = torch.nn.Parameter(torch.randn(places, width))
            self.language = torch.nn.Linear(width, width)

    small, large = Tower(1 + 4 * 4, 8), Tower(1 + 6 * 6, 8)
    take_over(large, small, "small", lambda line: None)
    assert torch.equal(large.vision.pos_embed[0], small.vision.pos_embed[0])
    grid = resize_grid(small.vision.pos_embed[1:], (4, 4), (6, 6))
    assert torch.equal(large.vision.pos_embed[1:], grid)
    with pytest.raises(ConfigError, match=r"vision\.pos_embed is 17 × 8 in small and 17 × 4 in the model"):
        take_over(Tower(17, 4), small, "small", lambda line: None)
    take_over(part := Tower(17, 8), Tower(17, 8), "whole", lambda line: None, ("^language",))
    with pytest.raises(ConfigError, match="0 of 2 of language"):
        del small.language
        take_over(part, small, "part", lambda line: None, ("^language",))


def test_what_may_change_in_a_run_that_goes_on() -> None:
    run = Run(recipe="x")
    assert differences(run, replace(run, steps=9, workers=2, checkpoint_every=3)) == []
    assert differences(run, replace(run, seed=4)) == [("seed", 0, 4)]
