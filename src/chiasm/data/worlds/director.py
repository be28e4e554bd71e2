"""Who plays and where everybody stands: the choices that all tasks share, with what each split holds out.

| split | pictures | pairs of names, and of colour and name | wordings | texts, invented names |
|---|---|---|---|---|
| `train`, `val` | seen | never a held-out one | seen | seen |
| `test` | seen | a held-out one wherever two names meet or a colour is asked for | held out | held out |
| `unseen` | held out | any | seen | seen |

Invented names are bound to names of the world in `train` and `val`, and to others that no scene ever shows otherwise in
`test` and `unseen`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from chiasm.core.errors import ConfigError
from chiasm.data.worlds import vocabulary
from chiasm.data.worlds.backgrounds import Background, sample_background
from chiasm.data.worlds.phrases import Phrases
from chiasm.data.worlds.scenes import stream
from chiasm.data.worlds.sprites import ARTS, COLOURS
from chiasm.data.worlds.stage import CELLS, Actor, Element, Point, Stage, cell_at
from chiasm.data.worlds.vocabulary import SPLITS, Noun, nouns, share

LEAST_NAMES, MOST_NAMES = 12, 300
MOST_CASTS = 200  # beginnings of a cast, before a world is said to have too few names


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a generated data set depends on besides split, task and index.

    Attributes:
        seed: names the data set.
        size: pixels of a picture's side.
        nouns: how many names its scenes know; the others serve as new things.
        art: `all`, or `openmoji` for a machine without Debian's packages.
        shots, ways: few-shot episodes: examples of each new name, and new names.
        seconds: length of a film; 0 = 8 to 16.
    """

    seed: int = 0
    size: int = 224
    nouns: int = 100
    art: str = "all"
    shots: int = 2
    ways: int = 2
    seconds: float = 0.0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("size", self.size, 32, 2048),
            ("nouns", self.nouns, LEAST_NAMES, MOST_NAMES),
            ("shots", self.shots, 0, 16),
            ("ways", self.ways, 2, 5),
            ("seconds", self.seconds, 0, 24 * 3600),
        ):
            if not low <= value <= high:
                raise ConfigError("option_out_of_range", f"{name} is {value}, it must be from {low} to {high}")
        if self.art not in ARTS:
            raise ConfigError("art_unknown", f"art {self.art!r}; known are {', '.join(ARTS)}")


@cache
def cast(count: int, art: str) -> tuple[tuple[Noun, ...], tuple[Noun, ...]]:
    """The `count` names that a world knows, those with the most pictures first, and all the others."""
    found = [_with_art(noun, art) for noun in nouns()]
    playing = [noun for noun in found if noun.seen and _speakable(noun)]
    order = sorted(range(len(playing)), key=lambda i: (-len(playing[i].seen) - len(playing[i].unseen), i))
    ranked = [playing[i] for i in order]
    return tuple(ranked[:count]), tuple(ranked[count:])


def _speakable(noun: Noun) -> bool:
    """A name that is no colour, and that `the …` and `is` fit."""
    return noun.name not in COLOURS and not noun.with_article.startswith("some ")


def _with_art(noun: Noun, art: str) -> Noun:
    if art == "all":
        return noun
    seen, unseen = (tuple(key for key in keys if "/" not in key) for keys in (noun.seen, noun.unseen))
    return Noun(name=noun.name, plural=noun.plural, seen=seen, unseen=unseen)


@lru_cache(maxsize=1 << 17)
def held_out_pair(a: str, b: str) -> bool:
    """See `vocabulary.held_out_pair`."""
    return vocabulary.held_out_pair(a, b)


class Director:
    """Makes one sample's choices.

    Args:
        world: the data set.
        split: `train`, `val`, `test` or `unseen`.
        index: the sample.
        task: makes the random stream the task's own.

    Raises:
        ConfigError: an unknown split.
    """

    def __init__(self, world: World, split: str, index: int, task: str) -> None:
        if split not in SPLITS:
            raise ConfigError("split_unknown", f"split {split!r}; known splits are {', '.join(SPLITS)}")
        self.world, self.split = world, split
        self.rng: random.Random = stream(world.seed, split, index, task)
        known, self.new = cast(world.nouns, world.art)
        self.pool = tuple(noun for noun in known if noun.pictures(split))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of a picture."""
        return self.world.size, self.world.size

    def say(self, phrases: Phrases, **values: str) -> str:
        """A wording of this split."""
        return phrases.pick(self.rng, self.split, **values)

    def coin(self) -> bool:
        """Even odds."""
        return self.rng.random() < 0.5

    def names(self, count: int) -> list[Noun]:
        """Different names that may stand together in this split; in `test` the first two may in no other.

        Raises:
            ConfigError: the world has too few names that may.
        """
        for _ in range(MOST_CASTS):
            found = [self.rng.choice(self.pool)]
            for _ in range(400):
                if len(found) == count:
                    return found
                noun = self.rng.choice(self.pool)
                if noun not in found and self._may_join(noun, found):
                    found.append(noun)
        what = f"{count} names that may stand together in {self.split} weren't found among {len(self.pool)}"
        raise ConfigError("option_out_of_range", what, hint=f"a world of more names than nouns={self.world.nouns}")

    def another(self, beside: Sequence[Noun]) -> Noun:
        """A name that may stand beside some others; in `test`, any other name.

        Raises:
            ConfigError: no name may.
        """

        def may(noun: Noun) -> bool:
            return noun not in beside and (self.split in ("test", "unseen") or self._may_join(noun, beside))

        if not any(may(noun) for noun in self.pool):
            what = f"none of {len(self.pool)} names may stand beside {', '.join(noun.name for noun in beside)}"
            raise ConfigError("option_out_of_range", what, hint=f"a world of more names than nouns={self.world.nouns}")
        while True:
            noun = self.rng.choice(self.pool)
            if may(noun):
                return noun

    def _may_join(self, noun: Noun, found: Sequence[Noun]) -> bool:
        if self.split == "unseen":
            return True
        if self.split == "test":
            return len(found) > 1 or held_out_pair(noun.name, found[0].name)
        return not any(held_out_pair(noun.name, other.name) for other in found)

    def colours(self, nouns: Sequence[Noun], distinct: bool = True) -> list[str]:
        """A colour for each name, as the split allows; `test` gives the first one a held-out colour if it has one."""
        found: list[str] = []
        for number, noun in enumerate(nouns):
            free = [colour for colour in COLOURS if not (distinct and colour in found)]
            kept = [colour for colour in free if not held_out_pair(f"colour {colour}", noun.name)]
            if self.split == "test" and number == 0:
                kept = [colour for colour in free if colour not in kept]
            elif self.split in ("test", "unseen"):
                kept = free
            found.append(self.rng.choice(kept or free))
        return found

    def fits(self, noun: Noun, colour: str) -> bool:
        """Whether this split may show a name in a colour."""
        return self.split in ("test", "unseen") or not held_out_pair(f"colour {colour}", noun.name)

    def coloured_names(self, count: int) -> tuple[list[Noun], list[str]]:
        """Different names with different colours; in `test` the first name has a held-out colour."""
        while True:
            names = self.names(count)
            held = [colour for colour in COLOURS if held_out_pair(f"colour {colour}", names[0].name)]
            if held or self.split != "test":
                return names, self.colours(names)

    def actor(self, noun: Noun, center: Point, edge: float, colour: str | None = None, picture: str = "") -> Actor:
        """A name's picture, chosen and posed."""
        rng = self.rng
        return Actor(
            noun=noun,
            picture=picture or rng.choice(noun.pictures(self.split)),
            center=(round(center[0], 1), round(center[1], 1)),
            edge=max(2, round(edge)),
            mirrored=rng.random() < 0.3,
            angle=round(rng.uniform(-15, 15), 1) if rng.random() < 0.15 else 0.0,
            colour=colour,
            art=self.world.art,
        )

    def background(self) -> Background:
        """Any background."""
        return sample_background(self.rng)

    def stage(self, elements: Sequence[Element], size: tuple[int, int] | None = None) -> Stage:
        """The elements on some background."""
        return Stage(size=size or self.size, background=self.background(), elements=tuple(elements))

    def edges(self, count: int, low: float = 0.18, high: float = 0.42) -> list[float]:
        """Sizes of things, in pixels, that fit together."""
        side = self.world.size
        high = min(high, 0.78 / max(1, count) ** 0.5)
        return [side * self.rng.uniform(low, max(low, high)) for _ in range(count)]

    def actors(
        self,
        names: Sequence[Noun],
        colours: Sequence[str | None] = (),
        edges: Sequence[float] = (),
        *,
        cells: Sequence[str | None] = (),
        apart: bool = False,
        size: tuple[int, int] | None = None,
    ) -> list[Actor]:
        """Things that stand without touching, none near a line between two cells.

        Args:
            names: one for each thing.
            colours: of each thing; missing or None = its own.
            edges: pixels of each thing's longer side; none given = any sizes that fit.
            cells: the cell that each must stand in; missing or None = any.
            apart: every thing has a cell of its own.
            size: (width, height) of the picture; None = the world's.
        """
        wanted = list(edges) or self.edges(len(names))
        places, shrink = self.places(wanted, cells=cells, apart=apart, size=size)
        return [
            self.actor(noun, place, edge * shrink, colours[i] if i < len(colours) else None)
            for i, (noun, place, edge) in enumerate(zip(names, places, wanted, strict=True))
        ]

    def places(
        self,
        edges: Sequence[float],
        *,
        cells: Sequence[str | None] = (),
        apart: bool = False,
        size: tuple[int, int] | None = None,
    ) -> tuple[list[Point], float]:
        """Where things of some sizes stand, and by how much all must shrink to fit; see `actors`."""
        size = size or self.size
        for attempt in range(200):
            shrink = 1.0 if attempt < 30 else 0.8 if attempt < 60 else 0.6
            shrunk = [edge * shrink for edge in edges]
            found: list[Point] = []
            for number, edge in enumerate(shrunk):
                cell = cells[number] if number < len(cells) else None
                place = self._place(edge, cell, found, shrunk, apart, size)
                if place is None:
                    break
                found.append(place)
            else:
                return found, shrink
        raise AssertionError(f"no room for {len(edges)} things in 200 tries")

    def _place(
        self,
        edge: float,
        cell: str | None,
        found: Sequence[Point],
        edges: Sequence[float],
        apart: bool,
        size: tuple[int, int],
    ) -> Point | None:
        rng, taken = self.rng, {cell_at(point, size) for point in found} if apart else set()
        for _ in range(30):
            where = cell or rng.choice(CELLS)
            if where in taken:
                continue
            row, column = divmod(CELLS.index(where), 3)
            point = tuple(
                min(max((number + rng.uniform(0.15, 0.85)) / 3 * extent, edge / 2), extent - edge / 2)
                for number, extent in zip((column, row), size, strict=True)
            )
            if not all(
                0.1 <= 3 * value / extent - number <= 0.9
                for value, number, extent in zip(point, (column, row), size, strict=True)
            ):
                continue
            if all(
                max(abs(point[0] - other[0]), abs(point[1] - other[1])) > (edge + edges[i]) / 2 + 1
                for i, other in enumerate(found)
            ):
                return point[0], point[1]
        return None


def invented(novel: bool) -> tuple[str, ...]:
    """Made-up names, one set for training and another for tests."""
    return tuple(name for name in _invented() if (share("invented", name) < 0.3) == novel)


@cache
def _invented() -> tuple[str, ...]:
    starts = ("bli", "da", "wu", "ze", "ko", "fe", "gro", "mi", "to", "pla", "sni", "vo", "ri", "ju", "che", "ba")
    ends = ("ck", "x", "g", "p", "rt", "lm", "nd", "sk", "b", "ft")
    real = {noun.name for noun in nouns()} | {"bald", "bag", "dag", "rip", "rib", "top", "tog", "bap", "tox"}
    return tuple(word for start in starts for end in ends if (word := start + end) not in real)
