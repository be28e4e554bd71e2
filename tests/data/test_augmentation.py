"""Augmented pictures: a function of seed and position, whoever draws them; true to the words beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import ConfigError
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart
from chiasm.core.samples import Place, Sample
from chiasm.data.augmentation import Augment, Augmented
from chiasm.data.collation import Conversations, picture
from chiasm.data.loader import Loader
from chiasm.objectives.captioning import NextToken
from chiasm.processing.pictures import read_picture
from chiasm.recipes.run import Run, Source, Store, Tiny
from chiasm.recipes.running.standard import standard_task
from chiasm.training.world import World

COLOURS = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


def ramp(width: int = 40, height: int = 30) -> Image.Image:
    """Red grows to the right, green downwards: what was done to the picture can be read off it."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 128)], -1).astype(np.uint8))


def sample(words: str = "a ramp", **annotations: Any) -> Sample:
    turns = Message("user", (ImagePart(ramp()), TextPart(words))), Message("assistant", (TextPart("yes"),))
    return Sample(key="a", conversation=Conversation(turns), place=Place("x", 0), annotations=annotations)


class Ramps:
    name, fingerprint = "ramps", "ramps"

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Sample:
        return replace(sample(), key=str(index))

    def __iter__(self):
        return (self[index] for index in range(6))


def seen(samples: Sequence[Sample]) -> list[bytes]:
    return [read_picture(picture(each)).tobytes() for each in samples]


def batches(numbers: Sequence[int], **settings: Any) -> list[list[bytes]]:
    with Loader(Ramps(), seen, **{"batch_size": 4, "seed": 5, "augment": Augment(), **settings}) as loader:
        return [loader(number) for number in numbers]


def test_workers_ranks_and_resuming_see_the_same_pictures_and_epochs_others() -> None:
    expected = batches(range(8))
    assert batches(range(8), workers=2) == expected
    assert batches([6, 7, 2], workers=1) == [expected[6], expected[7], expected[2]]
    parts = [batches(range(3), rank=rank, world=2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == expected[:3]
    assert len({each for batch in expected for each in batch}) == 32, "6 rows, all shown differently each time"
    assert batches([0], seed=6) != expected[:1]


def test_other_settings_are_another_order_to_resume() -> None:
    prints = {Loader(Ramps(), seen, batch_size=2, augment=a).fingerprint for a in (None, Augment(), Augment(flip=0.1))}
    assert len(prints) == 3


def test_a_crop_keeps_the_size_and_a_part_of_the_picture() -> None:
    way = Augment(least_area=0.4, flip=0.0, **COLOURS)
    for seed in range(40):
        cut = np.asarray(Augmented(ramp(), way, seed).picture()).astype(int)
        assert cut.shape == (30, 40, 3)
        across, down = (cut[15, -1, 0] - cut[15, 0, 0]) / 255, (cut[-1, 20, 1] - cut[0, 20, 1]) / 255
        assert 0.33 < across * down <= 1.05 and 0.5 < across / down < 1.55
    assert Augmented(ramp(), way, 3).fingerprint == Augmented(ramp(), way, 3).fingerprint
    assert Augmented(ramp(), way, 3).fingerprint != Augmented(ramp(), way, 4).fingerprint


def test_colours_change_within_bounds_and_hue_turns() -> None:
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    way = Augment(least_area=1, flip=0, brightness=0.2, contrast=0, saturation=0)
    levels = {Augmented(grey, way, seed).picture().getpixel((0, 0))[0] for seed in range(50)}
    assert len(levels) > 10 and min(levels) >= 79 and max(levels) <= 120
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    way = Augment(least_area=1, flip=0, **COLOURS, hue=0.5)
    assert len({Augmented(red, way, seed).picture().getpixel((0, 0)) for seed in range(20)}) > 10


@pytest.mark.parametrize(
    ("words", "annotations", "cuts", "mirrors"),
    [
        ("a ramp", {}, True, True),
        ("Is the cat left of the dog?", {}, False, False),
        ("What does the sign say?", {}, True, False),
        ("How many ramps are there?", {}, False, True),
        ("What is at the top?", {}, False, True),
        ("a ramp", {"boxes": [{"box": [0, 0, 5, 5], "phrase": "a ramp"}]}, False, False),
        ("a ramp", {"points": [{"point": [1, 1], "phrase": "a ramp"}]}, False, False),
        ("a ramp", {"boxes": []}, True, True),
    ],
)
def test_what_the_words_say_stays_true(words: str, annotations: dict, cuts: bool, mirrors: bool) -> None:
    source = picture(Augment().sample(sample(words, **annotations), 0, 0))
    assert (source.way.least_area < 1, source.way.flip > 0) == (cuts, mirrors)
    always = picture(Augment(least_area=1, flip=1, **COLOURS).sample(sample(words, **annotations), 0, 0))
    mirrored = np.asarray(always.picture())[0, 0, 0] > 200
    assert mirrored == mirrors


@pytest.mark.parametrize("wrong", [{"least_area": 0.0}, {"flip": 1.5}, {"stretch": 0.5}, {"hue": 0.6}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="setting_range"):
        Augment(**wrong)


def test_stored_features_of_a_frozen_tower_are_not_augmented_and_that_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        ramp().save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a ramp")
    run = Run(
        family="llava", model=Tiny(), data=(Source(name=str(folder)),), collate=Conversations(), objective=NextToken(),
        batch_size=2, augment=Augment(), store=Store(), learn=("^connector",),
    )  # fmt: skip
    for frozen in (True, False):
        said: list[str] = []
        changed = run if frozen else replace(run, learn=("",))
        feed = standard_task(changed, tmp_path / str(frozen), World(), said.append).feed
        assert (feed.loader.augment is None) == frozen  # type: ignore[attr-defined]
        assert any("augmentation is off" in line for line in said) == frozen
