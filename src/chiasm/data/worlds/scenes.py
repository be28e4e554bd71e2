"""Scenes: named pictures composed on a background, with their boxes in original pixels.

A scene is sampled first (`sample_scene`, no pixels), then drawn (`draw`). Both are pure functions, so a
data set is a seed and a range of indices. Splits differ in three ways: their random streams are disjoint;
some pairs of names stand together in `test` scenes only; `unseen` scenes draw pictures that no other
split draws. Question makers (`questions.py`) read a `Scene` and never its pixels.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chiasm.core.errors import ConfigError
from chiasm.data.worlds.backgrounds import Background, sample_background
from chiasm.data.worlds.vocabulary import SPLITS, Noun, held_out_pair, nouns_of

if TYPE_CHECKING:
    from PIL import Image

Box = tuple[float, float, float, float]
COLUMNS, ROWS = ("left", "", "right"), ("top", "", "bottom")
LAYOUTS = ("single", "group", "mixed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One object: its name, the key of the picture that shows it, and its box (x0, y0, x1, y1) in pixels."""

    noun: Noun
    picture: str
    box: Box
    mirrored: bool = False
    angle: float = 0.0

    @property
    def name(self) -> str:
        """The singular name."""
        return self.noun.name

    @property
    def center(self) -> tuple[float, float]:
        """The middle of the box, in pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Things on a background; `size` is (width, height) in pixels."""

    split: str
    index: int
    size: tuple[int, int]
    background: Background
    things: tuple[Thing, ...]

    def counts(self) -> Counter[str]:
        """How many things carry each name."""
        return Counter(thing.name for thing in self.things)

    def cell(self, thing: Thing) -> str:
        """Where a thing's middle lies on a three by three grid: `left`, `top right`, …, `center`."""
        x, y = thing.center
        column, row = (COLUMNS[min(2, int(3 * x / self.size[0]))], ROWS[min(2, int(3 * y / self.size[1]))])
        return " ".join(part for part in (row, column) if part) or "center"


def stream(seed: int, split: str, index: int, purpose: str) -> random.Random:
    """The random numbers of one sample for one purpose; the same on every machine.

    Raises:
        ConfigError: an unknown split.
    """
    if split not in SPLITS:
        raise ConfigError("split_unknown", f"split {split!r}; known splits are {', '.join(SPLITS)}")
    return random.Random(f"{seed}/{split}/{index}/{purpose}")


def sample_scene(seed: int, split: str, index: int, layout: str | None = None) -> Scene:
    """Draw the plan of one scene.

    Args:
        seed: names the whole data set.
        split: `train`, `val`, `test` or `unseen`.
        index: which sample, from 0.
        layout: `single` (one thing), `group` (1 to 5 of one name, uniform, and up to two others) or
            `mixed` (2 to 4 names); None picks one at random.

    Returns:
        The scene; boxes lie inside the picture and don't overlap.

    Raises:
        ConfigError: an unknown split or layout.
    """
    rng = stream(seed, split, index, "scene")
    layout = layout or rng.choices(LAYOUTS, (3, 4, 3))[0]
    if layout not in LAYOUTS:
        raise ConfigError("layout_unknown", f"layout {layout!r}; known layouts are {', '.join(LAYOUTS)}")
    width = rng.choice((224, 224, 256, 320, 384))
    height = width if rng.random() < 0.8 else rng.choice((224, 256, 320, 384))
    background = sample_background(rng)
    for _ in range(100):
        names = _pick_names(rng, split, layout)
        boxes = _place(rng, (width, height), len(names), 0.62 if layout == "single" else 0.42)
        if boxes is not None:
            break
    else:
        raise AssertionError("no room for the things of a scene in 100 tries")
    things = tuple(_make_thing(rng, noun, split, box) for noun, box in zip(names, boxes, strict=True))
    return Scene(split=split, index=index, size=(width, height), background=background, things=things)


def draw(scene: Scene, picture: Callable[[str], Image.Image]) -> Image.Image:
    """Paint a scene.

    Args:
        scene: what to paint.
        picture: gives the RGBA picture of a key, trimmed to what it shows.

    Returns:
        An RGB picture of `scene.size`.
    """
    canvas = scene.background.draw(scene.size)
    for thing in scene.things:
        art = fit(picture(thing.picture), thing)
        x = round(thing.center[0] - art.width / 2)
        y = round(thing.center[1] - art.height / 2)
        canvas.paste(art, (x, y), art)
    return canvas


def fit(art: Image.Image, thing: Thing) -> Image.Image:
    """Mirror, turn and scale a picture so that it fills `thing.box` in one direction and keeps its shape."""
    from PIL import Image, ImageOps

    if thing.mirrored:
        art = ImageOps.mirror(art)
    if thing.angle:
        art = art.rotate(thing.angle, Image.Resampling.BILINEAR, expand=True)
    box_width, box_height = thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]
    scale = min(box_width / art.width, box_height / art.height)
    size = max(1, round(art.width * scale)), max(1, round(art.height * scale))
    return art.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _pick_names(rng: random.Random, split: str, layout: str) -> list[Noun]:
    pool = nouns_of(split)
    names = [rng.choice(pool)]
    if layout == "group":
        names *= rng.randint(1, 5)
    others = {"single": 0, "group": rng.choice((0, 0, 1, 1, 2)), "mixed": rng.randint(1, 3)}[layout]
    for position in range(others):
        names.append(_pick_other(rng, split, pool, names, must_be_held_out=split == "test" and position == 0))
    return names


def _pick_other(
    rng: random.Random, split: str, pool: tuple[Noun, ...], names: list[Noun], must_be_held_out: bool
) -> Noun:
    while True:
        noun = rng.choice(pool)
        if any(noun.name == other.name for other in names):
            continue
        pairs = [held_out_pair(noun.name, other.name) for other in names]
        if (must_be_held_out and all(pairs)) or (
            not must_be_held_out and (split in ("test", "unseen") or not any(pairs))
        ):
            return noun


def _make_thing(rng: random.Random, noun: Noun, split: str, box: Box) -> Thing:
    picture = rng.choice(noun.pictures(split))
    angle = rng.uniform(-15, 15) if rng.random() < 0.3 else 0.0
    return Thing(noun=noun, picture=picture, box=box, mirrored=rng.random() < 0.3, angle=angle)


def _place(rng: random.Random, size: tuple[int, int], count: int, largest: float) -> list[Box] | None:
    """Square boxes, in random order, none touching another; None when they found no room.

    A centre keeps 5 % of the picture away from the thirds, so that its cell is never a matter of taste.
    """
    side = min(size)
    largest = min(largest, 0.80 / count**0.5)
    boxes: list[Box] = []
    shared = rng.uniform(0.17, largest) if rng.random() < 0.5 else None
    cells = [(column, row) for column in range(3) for row in range(3)]
    for number in range(count):
        for _ in range(60):
            edge = side * (shared * rng.uniform(0.9, 1.1) if shared else rng.uniform(0.17, largest))
            column, row = rng.choice(cells)
            center = [
                (cell + rng.uniform(0.15, 0.85)) / 3 * extent for cell, extent in zip((column, row), size, strict=True)
            ]
            box = _inside(
                (center[0] - edge / 2, center[1] - edge / 2, center[0] + edge / 2, center[1] + edge / 2), size
            )
            if box and not any(_touch(box, other) for other in boxes):
                boxes.append(box)
                break
        if len(boxes) <= number:
            return None
    rng.shuffle(boxes)
    return boxes


def _inside(box: Box, size: tuple[int, int]) -> Box | None:
    """Move a box into the picture; None when that would carry its middle to another cell."""
    moves = []
    for low, high, extent in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        move = max(0.0, -low) - max(0.0, high - extent)
        before, after = 3 * (low + high) / 2 / extent, 3 * ((low + high) / 2 + move) / extent
        if int(before) != int(after) or not 0.1 <= after % 1 <= 0.9:
            return None
        moves.append(move)
    return box[0] + moves[0], box[1] + moves[1], box[2] + moves[0], box[3] + moves[1]


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
