"""Text to read in real fonts, charts to read values from, and small things in large pictures."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING

from chiasm.core.messages import ImagePart, TextPart
from chiasm.data.worlds import phrases
from chiasm.data.worlds.backgrounds import Colour
from chiasm.data.worlds.director import Director, cast, invented
from chiasm.data.worlds.fonts import SEEN_FACES, UNSEEN_FACES, font
from chiasm.data.worlds.sprites import COLOURS
from chiasm.data.worlds.stage import CELLS, Actor, Element, Point, Stage, Writing, at
from chiasm.data.worlds.tasks.row import Row, Turn, ask
from chiasm.data.worlds.vocabulary import nouns, share

if TYPE_CHECKING:
    from PIL import Image

MANY = 4, 6  # small things in a large picture
SMALL = 4  # a large picture's side is so many times the world's
INKS: tuple[tuple[Colour, Colour | None], ...] = (
    ((0, 0, 0), (255, 255, 255)),
    ((255, 255, 255), (20, 60, 120)),
    ((20, 20, 20), (250, 215, 70)),
    ((255, 255, 255), (150, 20, 30)),
    ((255, 255, 255), (20, 90, 40)),
)


@cache
def words_of(split: str) -> tuple[str, ...]:
    """What can be written: names, made-up words and numbers; `test` and `unseen` have words of their own."""
    novel = split in ("test", "unseen")
    plain = [noun.name for noun in nouns() if " " not in noun.name]
    numbers = [str(number) for number in range(10, 1000)]
    found = [word for word in (*plain, *numbers) if (share("word", word) < 0.2) == novel]
    numerals = [word for word in found if word.isdigit()]
    letters = [word for word in found if not word.isdigit()]
    return (*letters, *invented(novel), *numerals[: len(letters)])


def writing(director: Director, text: str, center: tuple[float, float], height: float, widest: float) -> Writing:
    """A sign, its letters made smaller until it is at most `widest` pixels wide."""
    rng = director.rng
    face = rng.choice(UNSEEN_FACES if director.split == "unseen" else SEEN_FACES)
    ink, plate = rng.choice(INKS)
    size = round(height)
    while size > 6 and font(face, size).getlength(text) + 0.7 * size > widest:
        size -= 1
    return Writing(text=text, face=face, height=size, center=center, ink=ink, plate=plate)


def text(director: Director) -> Row:
    """The word on the only sign, or on the one in a place."""
    side, rng = director.world.size, director.rng
    count = rng.choice((1, 1, 2, 3))
    words = rng.sample(words_of(director.split), count)
    if count == 1:
        height = side * rng.uniform(0.09, 0.2)
        center = (side * rng.uniform(0.45, 0.55), side * rng.uniform(0.2, 0.8))
        stage = director.stage([writing(director, words[0], center, height, 0.85 * side)])
        return ask("text", stage, director.say(phrases.READ), words[0])
    rows = rng.sample(range(3), count)
    signs: list[Element] = [
        writing(director, word, (side / 2, (row + 0.5) / 3 * side), side * rng.uniform(0.09, 0.15), 0.85 * side)
        for word, row in zip(words, rows, strict=True)
    ]
    where = at(("top", "center", "bottom")[rows[0]])
    return ask("text", director.stage(signs), director.say(phrases.READ_AT, where=where), words[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A bar, line or pie chart; a `LazyPicture`."""

    kind: str
    size: int
    names: tuple[str, ...]
    values: tuple[int, ...]
    colours: tuple[str, ...]
    face: str

    @property
    def fingerprint(self) -> str:
        """Equal for equal pixels."""
        return sha256(f"chart 1 {self!r}".encode()).hexdigest()

    def words(self) -> str:
        """The chart in plain words."""
        pairs = zip(self.names, self.values, strict=True)
        return f"a {self.kind} chart with " + ", ".join(f"{name} {value}" for name, value in pairs)

    def picture(self) -> Image.Image:
        """Draw it."""
        from PIL import Image, ImageDraw

        image = Image.new("RGB", (self.size, self.size), (255, 255, 255))
        draw, letters = ImageDraw.Draw(image), font(self.face, max(7, round(self.size * 0.065)))
        if self.kind == "pie":
            self._pie(draw, letters)
        else:
            self._axes(draw, letters)
        return image

    def _pie(self, draw, letters) -> None:  # type: ignore[no-untyped-def]
        side, start, total = self.size, -90.0, sum(self.values)
        for name, value, colour in zip(self.names, self.values, self.colours, strict=True):
            stop = start + 360 * value / total
            draw.pieslice((0.2 * side, 0.2 * side, 0.8 * side, 0.8 * side), start, stop, fill=COLOURS[colour][1],
                          outline=(40, 40, 40))  # fmt: skip
            middle = math.radians((start + stop) / 2)
            x, y = (0.5 + 0.4 * math.cos(middle)) * side, (0.5 + 0.4 * math.sin(middle)) * side
            draw.text((min(max(x, 0.13 * side), 0.87 * side), y), f"{name} {value}", font=letters, fill=0, anchor="mm")
            start = stop

    def _axes(self, draw, letters) -> None:  # type: ignore[no-untyped-def]
        side, top, count = self.size, 10, len(self.names)
        left, right, low, high = 0.12 * side, 0.97 * side, 0.86 * side, 0.06 * side
        level = [low - (low - high) * value / top for value in range(top + 1)]
        for value in range(0, top + 1, 2):
            draw.line((left, level[value], right, level[value]), fill=(215, 215, 215))
            draw.text((left - 0.02 * side, level[value]), str(value), font=letters, fill=0, anchor="rm")
        width = (right - left) / count
        tops = []
        for number, (name, value, colour) in enumerate(zip(self.names, self.values, self.colours, strict=True)):
            middle = left + (number + 0.5) * width
            tops.append((middle, level[value]))
            draw.text((middle, low + 0.06 * side), name, font=letters, fill=0, anchor="mm")
            if self.kind == "bar":
                draw.rectangle((middle - 0.3 * width, level[value], middle + 0.3 * width, low), fill=COLOURS[colour][1],
                               outline=(40, 40, 40))  # fmt: skip
        if self.kind == "line":
            draw.line(tops, fill=COLOURS[self.colours[0]][1], width=max(2, side // 80))
            for x, y in tops:
                draw.ellipse(
                    (x - 0.015 * side, y - 0.015 * side, x + 0.015 * side, y + 0.015 * side), fill=(40, 40, 40)
                )
        draw.line((left, low, right, low), fill=(40, 40, 40), width=2)


def charts(director: Director) -> Row:
    """A value, or which is highest or lowest."""
    rng = director.rng
    count = rng.randint(3, 4)
    short = [word for word in words_of(director.split) if word.isalpha() and len(word) <= 5]
    names, values = rng.sample(short, count), rng.sample(range(1, 11), count)
    chart = Chart(
        kind=rng.choice(("bar", "line", "pie")),
        size=director.world.size,
        names=tuple(names),
        values=tuple(values),
        colours=tuple(rng.sample(list(COLOURS), count)),
        face=rng.choice(("aileron", "caladea-bold")),
    )
    if director.coin():
        number = rng.randrange(count)
        question = director.say(phrases.CHART_VALUE, name=names[number])
        return ask("chart_value", chart, question, str(values[number]))
    most = rng.choice(("highest", "lowest"))
    right = names[values.index((max if most == "highest" else min)(values))]
    return ask("chart_extreme", chart, director.say(phrases.CHART_EXTREME, most=most), right, choices=tuple(names))


def small(director: Director) -> Row:
    """Name, colour or text of something that is lost when a large picture is made small."""
    rng = director.rng
    size, cells = _large(director)
    which = rng.choice(("name", "colour", "text"))
    edges = _small_edges(director, cells)
    if which == "text":
        centers = [_in_cell(rng, cell, size) for cell in cells]
        return _sign_at(director, size, cells, words_of(director.split), centers, (0.09, 0.13))
    if which == "colour":
        names, colours = director.coloured_names(len(cells))
        actors = director.actors(names, colours, edges, cells=cells, size=size)
        question = director.say(phrases.COLOUR, name=names[0].name)
        return ask("small_colour", director.stage(actors, size), question, colours[0], choices=tuple(COLOURS))
    return _name_at(director, size, cells, edges)


def small_names(director: Director) -> Row:
    """The names of four to six small things in a large picture, asked for by their places; see `_in_turn`."""
    size, cells = _large(director, *MANY)
    row = _name_at(director, size, cells, _small_edges(director, cells))
    return _in_turn(director, row, cells, phrases.NAMING_AT)


def small_signs(director: Director) -> Row:
    """The words on four to six small signs; words are the world's names, so that reading is a choice.

    A sign's middle is near the middle of one of 7 × 7 cells: what a token's border cuts in two isn't what is asked.
    """
    size, cells = _large(director, *MANY)
    known = cast(director.world.nouns, director.world.art)[0]
    words = tuple(noun.name for noun in known if " " not in noun.name)
    centers = [_inward(_in_cell(director.rng, cell, size), size) for cell in cells]
    row = _sign_at(director, size, cells, words, centers, (0.12, 0.16))
    return _in_turn(director, row, cells, phrases.READ_AT)


def _in_turn(director: Director, row: Row, cells: list[str], wordings: phrases.Phrases) -> Row:
    """In `train`, everything in the picture is asked for in turn; otherwise the first thing alone, as in `row`."""
    if director.split != "train":
        return row
    stage = next(part.source for part in row.turns[0].asked if isinstance(part, ImagePart))
    assert isinstance(stage, Stage)
    others = zip(stage.elements[1:], cells[1:], strict=True)
    more = [Turn((TextPart(director.say(wordings, where=at(cell))),), element.name) for element, cell in others]
    return replace(row, turns=(*row.turns, *more))


def _large(director: Director, low: int = 2, high: int = 4) -> tuple[tuple[int, int], list[str]]:
    """(width, height) of a large picture, and `low` to `high` cells in which something is."""
    rng, side = director.rng, director.world.size * SMALL
    size = rng.choice(((side, side), (side, 3 * side // 4), (3 * side // 4, side)))
    return size, rng.sample(CELLS, rng.randint(low, high))


def _small_edges(director: Director, cells: list[str]) -> list[float]:
    return [director.world.size * director.rng.uniform(0.16, 0.24) for _ in cells]


def _name_at(director: Director, size: tuple[int, int], cells: list[str], edges: list[float]) -> Row:
    actors = director.actors(director.names(len(cells)), edges=edges, cells=cells, size=size)
    chosen: Actor = actors[0]
    question = director.say(phrases.NAMING_AT, where=at(cells[0]))
    return ask("small_name", director.stage(actors, size), question, chosen.name)


def _sign_at(
    director: Director,
    size: tuple[int, int],
    cells: list[str],
    known: tuple[str, ...],
    centers: list[Point],
    heights: tuple[float, float],
) -> Row:
    words = director.rng.sample(known, len(cells))
    height = director.world.size * director.rng.uniform(*heights)
    signs: list[Element] = [
        writing(director, word, center, height, size[0] / 3.2) for word, center in zip(words, centers, strict=True)
    ]
    question = director.say(phrases.READ_AT, where=at(cells[0]))
    return ask("small_text", director.stage(signs, size), question, words[0])


def _inward(center: Point, size: tuple[int, int]) -> Point:
    x, y = (round(extent / 2 + 6 / 7 * (at - extent / 2), 1) for at, extent in zip(center, size, strict=True))
    return x, y


def _in_cell(rng: random.Random, cell: str, size: tuple[int, int]) -> tuple[float, float]:
    row, column = divmod(CELLS.index(cell), 3)
    x, y = ((number + rng.uniform(0.45, 0.55)) / 3 * extent for number, extent in zip((column, row), size, strict=True))
    return round(x, 1), round(y, 1)
