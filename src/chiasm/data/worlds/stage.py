"""Stages: what stands where in one picture, drawn on demand, with boxes tight to the visible pixels.

A `Stage` is plain data and a `LazyPicture`: two equal stages have equal pixels and equal fingerprints, and none is
drawn before somebody asks for the picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from chiasm.data.worlds.backgrounds import Background, Colour, paint
from chiasm.data.worlds.fonts import font
from chiasm.data.worlds.sprites import sprites
from chiasm.data.worlds.vocabulary import Noun

if TYPE_CHECKING:
    from PIL import Image

COLUMNS, ROWS = ("left", "", "right"), ("top", "", "bottom")
CELLS = tuple(" ".join(part for part in (row, column) if part) or "center" for row in ROWS for column in COLUMNS)
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VERSION = 1  # of the pixels: changes when the same stage is drawn otherwise

Box = tuple[int, int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """One cut-out picture; its longer visible side is `edge` pixels and its visible middle stands at `center`."""

    noun: Noun
    picture: str
    center: Point
    edge: int
    mirrored: bool = False
    angle: float = 0.0
    colour: str | None = None
    art: str = "all"

    @property
    def name(self) -> str:
        """What stands for it in an answer: the singular name."""
        return self.noun.name

    @property
    def phrase(self) -> str:
        """Colour and name, no article."""
        return f"{self.colour} {self.noun.name}" if self.colour else self.noun.name

    def cut_out(self) -> Image.Image:
        """The RGBA picture that is pasted."""
        return sprites(self.art).cut_out(
            self.picture, self.edge, mirrored=self.mirrored, angle=self.angle, colour=self.colour
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """A line of text on a plate, or straight on the background; `height` is the font's size in pixels."""

    text: str
    face: str
    height: int
    center: Point
    ink: Colour
    plate: Colour | None = None

    @property
    def name(self) -> str:
        """What stands for it in an answer: its text."""
        return self.text

    def cut_out(self) -> Image.Image:
        """The RGBA picture that is pasted."""
        from PIL import Image, ImageDraw

        letters = font(self.face, self.height)
        left, top, right, bottom = letters.getbbox(self.text)
        margin = round(0.35 * self.height) if self.plate else 0
        size = round(right - left) + 2 * margin, round(bottom - top) + 2 * margin
        image = Image.new("RGBA", size, (*(self.plate or self.ink), 255 if self.plate else 0))
        draw = ImageDraw.Draw(image)
        draw.text((margin - left, margin - top), self.text, font=letters, fill=(*self.ink, 255))
        if self.plate:
            draw.rectangle((0, 0, size[0] - 1, size[1] - 1), outline=self.ink, width=max(1, self.height // 14))
        return image


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """A closed box: something may be behind it, and the picture doesn't say what."""

    center: Point
    edge: int

    @property
    def name(self) -> str:
        """What stands for it in an answer: nothing."""
        return ""

    def cut_out(self) -> Image.Image:
        """The RGBA picture that is pasted."""
        from PIL import Image, ImageDraw

        image = Image.new("RGBA", (self.edge, self.edge), (128, 128, 128, 255))
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, self.edge - 1, self.edge - 1), outline=(40, 40, 40), width=max(1, self.edge // 20))
        letters = font("aileron", round(0.7 * self.edge))
        draw.text((self.edge / 2, self.edge / 2), "?", font=letters, fill=(255, 255, 255), anchor="mm")
        return image


Element = Actor | Writing | Cover


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Elements on a background, painted in order; `size` is (width, height) in pixels."""

    size: tuple[int, int]
    background: Background
    elements: tuple[Element, ...]

    @property
    def actors(self) -> tuple[Actor, ...]:
        """The elements that are pictures of named things."""
        return tuple(element for element in self.elements if isinstance(element, Actor))

    @property
    def fingerprint(self) -> str:
        """Equal for equal pixels."""
        return sha256(f"stage {VERSION} {self!r}".encode()).hexdigest()

    def picture(self) -> Image.Image:
        """Draw it: an RGB picture of `size`."""
        canvas = paint(self.background, self.size)
        for element in self.elements:
            art = element.cut_out()
            canvas.paste(art, _corner(element.center, art.size), art)
        return canvas

    def box(self, element: Element) -> Box:
        """(x0, y0, x1, y1) of an element's visible pixels, cut at the picture's edges."""
        art = element.cut_out()
        x, y = _corner(element.center, art.size)
        return max(0, x), max(0, y), min(self.size[0], x + art.width), min(self.size[1], y + art.height)

    def cell(self, element: Element) -> str:
        """Where an element's middle lies on a three by three grid: `left`, `top right`, …, `center`."""
        return cell_at(element.center, self.size)

    def counts(self) -> Counter[str]:
        """How many actors carry each name."""
        return Counter(actor.name for actor in self.actors)

    def words(self, *, sizes: bool = False) -> str:
        """The picture in plain words, for texts that stand in for it.

        Args:
            sizes: say which things are big or small.

        Returns:
            Every element with its place.
        """
        parts = []
        for element in self.elements:
            if isinstance(element, Actor):
                share = element.edge / min(self.size)
                size = "big " if share >= 0.4 else "small " if share <= 0.28 else ""
                what = with_article((size if sizes else "") + element.phrase, element.noun)
            else:
                what = "a closed box" if isinstance(element, Cover) else f'the text "{element.text}"'
            parts.append(f"{what} {at(self.cell(element))}")
        return ", ".join(parts) or "nothing"


def cell_at(center: Point, size: tuple[int, int]) -> str:
    """The cell of a point."""
    column, row = (min(2, int(3 * value / extent)) for value, extent in zip(center, size, strict=True))
    return CELLS[3 * row + column]


def at(cell: str) -> str:
    """A cell as a phrase: `on the left`, `at the top right`, `in the center`."""
    return "in the center" if cell == "center" else f"on the {cell}" if cell in ("left", "right") else f"at the {cell}"


def with_article(phrase: str, noun: Noun) -> str:
    """`a red cat`, `an orange`, `some blue scissors`; the article fits the phrase's first letter."""
    if noun.with_article.startswith("some "):
        return f"some {phrase}"
    vowel = phrase[0] in "aeio" or phrase == "umbrella"
    return f"{'an' if vowel else 'a'} {phrase}"


def listed(parts: Sequence[str], joint: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {joint} {parts[-1]}"


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    return text[0].upper() + text[1:] + "."


def _corner(center: Point, size: tuple[int, int]) -> tuple[int, int]:
    return round(center[0] - size[0] / 2), round(center[1] - size[1] / 2)
