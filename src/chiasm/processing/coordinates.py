"""Places in pictures: original pixels inside, each family's spelling at the edge.

A `PlaceStyle` writes boxes and points as its family does and reads what its models really emit: fences, missing
brackets, swapped corners, shares and percents for grid cells, numbers beyond the picture. What can't be read is
reported, and so is what was clipped.

* `GridBoxes`: whole numbers on a grid of 0–999 or 0–1000 over the picture (Qwen-VL, CogVLM, InternVL, Qwen2-VL).
* `PixelJson`: JSON in pixels of the resized picture (Qwen2.5-VL).
* `PercentPoints`: points in percent, in tags (Molmo).
* `LocTokens`: four tokens a box, row first (PaliGemma).
* `PatchBoxes`: two tokens a box, the patches that hold its corners (Kosmos-2).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Protocol

from chiasm.core.plan import ImagePlan

Box = tuple[float, float, float, float]
Point = tuple[float, float]
_NUMBER = r"-?\d+(?:\.\d+)?"
_OBJECT = re.compile(r"\{[^{}]*\}?")
_KEYS = "bbox_2d|points?_2d|bboxes|bbox|boxes|box|points?|coordinates"
_LIST = r"\[(?:[^\[\]{}]|\[[^\[\]{}]*\]?)*\]?"  # one list deep, closed or not
_KEY = re.compile(rf"""["']?\b({_KEYS})["']?\s*:\s*({_LIST})""")
_LABEL = re.compile(r"""["'](?:label|text_content|name|description)["']\s*:\s*(["'])((?:\\.|(?!\1)[^\\])*)\1""")
_PAIR = rf"\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)"


_QUAD = re.compile(r"<quad>((?:[^<]*\([^()]*\)){4}[^<]*)(?:</quad>|$)")


@dataclass(frozen=True, slots=True)
class Place:
    """A box or a point in original pixels, and what stands there."""

    box: Box | None = None
    point: Point | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Places:
    """What was read off a reply.

    Attributes:
        places: in the reply's order.
        unread: pieces that look like places and aren't.
        clipped: how many places reached beyond the picture and were cut.
    """

    places: Sequence[Place] = field(default=())
    unread: Sequence[str] = field(default=())
    clipped: int = 0


class PlaceStyle(Protocol):
    """One family's way to ask for places and to write them.

    Attributes:
        question: how a phrase is asked for; `{phrase}` is replaced.
        template: a chat template of its own, where control tokens stand around the phrase (`<slot>` = the picture),
            for models that know these tokens; None = all are asked the question.
        controls: places are spelled with control tokens, which the reply's text leaves out.
    """

    question: str

    @property
    def template(self) -> str | None:
        """See above."""

    @property
    def controls(self) -> bool:
        """See above."""

    def read(self, text: str, plan: ImagePlan) -> Places:
        """Places in a reply."""
        ...

    def write(self, places: Iterable[Place], plan: ImagePlan) -> str:
        """Places as the family's models write them."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class GridBoxes:
    """Boxes on a grid over the picture.

    Attributes:
        question: how a phrase is asked for; `{phrase}` is replaced.
        grid: cells along one side.
        form: `list` = [[x0,y0,x1,y1]]; `pairs` = (x0,y0),(x1,y1).
        digits: numbers are written with so many digits at least.
        before, after: what stands around a box.
        template: the chat template that a phrase is asked with; see `PlaceStyle`.
        controls: see `PlaceStyle`.
    """

    question: str
    template: str | None = None
    controls: bool = False
    grid: int = 1000
    form: Literal["list", "pairs"] = "list"
    digits: int = 1
    before: str = ""
    after: str = ""

    def read(self, text: str, plan: ImagePlan) -> Places:
        """See `PlaceStyle`; words in `<ref>` tags name the boxes behind them, a `<quad>` becomes the box around it."""
        width, height = plan.source
        found: list[Place] = []
        unread: list[str] = []
        clipped = 0
        text = _QUAD.sub(_around, text)
        for piece in re.split(r"(?=<ref>)", text):
            label = re.match(r"<ref>(.*?)</ref>", piece, re.DOTALL)
            rest = piece[label.end() :] if label else piece
            some = _read_tuples(rest, (width / self.grid, height / self.grid), plan.source)
            found += [replace(place, label=label[1].strip()) for place in some.places] if label else some.places
            unread, clipped = [*unread, *some.unread], clipped + some.clipped
        return Places(tuple(found), tuple(unread), clipped)

    def write(self, places: Iterable[Place], plan: ImagePlan) -> str:
        """See `PlaceStyle`; coordinates are rounded down, the last cell holds the border."""
        written = []
        for place in places:
            x0, y0, x1, y1 = (self._cell(place, axis, plan) for axis in range(4))
            if self.form == "pairs":
                written.append(f"{self.before}({x0},{y0}),({x1},{y1}){self.after}")
            else:
                written.append(f"{self.before}[[{x0},{y0},{x1},{y1}]]{self.after}")
        return "".join(written)

    def _cell(self, place: Place, axis: int, plan: ImagePlan) -> str:
        box = place.box or (*(place.point or (0.0, 0.0)), *(place.point or (0.0, 0.0)))
        cell = min(self.grid - 1, max(0, math.floor(box[axis] * self.grid / plan.source[axis % 2])))
        return f"{cell:0{self.digits}d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelJson:
    """JSON with `bbox_2d` or `point_2d` in pixels of the picture as the model sees it.

    Attributes:
        question: how a phrase is asked for.
    """

    question: str
    template: ClassVar[str | None] = None
    controls: ClassVar[bool] = False

    def read(self, text: str, plan: ImagePlan) -> Places:
        """See `PlaceStyle`; JSON needn't be whole, every object that is there is read."""
        crop = plan.crops[0]
        scale = (plan.source[0] / crop.resized[0], plan.source[1] / crop.resized[1])
        found: list[Place] = []
        unread: list[str] = []
        clipped = 0
        for piece in _OBJECT.findall(text):
            match = _KEY.search(piece)
            if match is None:
                if re.search(r"\d", piece):  # a bracket around other objects says nothing
                    unread.append(piece.strip())
                continue
            label = _LABEL.search(piece)
            words = "" if label is None else label[2].replace('\\"', '"')
            size = 2 if "point" in match[1] else 4
            values, per = _numbers(match[2], scale, plan.source)
            places = [_place(values[at : at + size], per, plan.source, words) for at in range(0, len(values), size)]
            if not places or len(values) % size or any(place is None for place, _ in places):
                unread.append(piece.strip())
            else:
                found += [place for place, _ in places if place is not None]
                clipped += sum(cut for _, cut in places)
        if not found and not unread:
            return _read_tuples(text, scale, plan.source)
        return Places(tuple(found), tuple(unread), clipped)

    def write(self, places: Iterable[Place], plan: ImagePlan) -> str:
        """See `PlaceStyle`."""
        crop = plan.crops[0]
        scale = (crop.resized[0] / plan.source[0], crop.resized[1] / plan.source[1])
        lines = []
        for place in places:
            name, numbers = ("bbox_2d", place.box) if place.box else ("point_2d", place.point)
            pixels = [round(value * scale[axis % 2]) for axis, value in enumerate(numbers or ())]
            lines.append(f'\t{{"{name}": {pixels}, "label": {json.dumps(place.label, ensure_ascii=False)}}}')
        return "```json\n[\n" + ",\n".join(lines) + "\n]\n```"


@dataclass(frozen=True, kw_only=True, slots=True)
class PercentPoints:
    """Points in percent of the picture, in `<point>` or `<points>` tags.

    Attributes:
        question: how a phrase is asked for.
    """

    question: str
    template: ClassVar[str | None] = None
    controls: ClassVar[bool] = False

    def read(self, text: str, plan: ImagePlan) -> Places:
        """See `PlaceStyle`; a tag that isn't closed is read as well."""
        found: list[Place] = []
        unread: list[str] = []
        clipped = 0
        scale = (plan.source[0] / 100, plan.source[1] / 100)
        for tag in re.finditer(r"<points?\b([^<>]*)>?([^<]*)", text):
            attributes = dict(re.findall(rf'\b([xy]\d*)\s*=\s*"?\s*({_NUMBER})', tag[1]))
            numbers = sorted({key[1:] for key in attributes}, key=lambda n: int(n or 0))
            label = tag[2].strip() or next(iter(re.findall(r'alt\s*=\s*"([^"]*)"', tag[1])), "")
            if not numbers:
                unread.append(tag[0].strip())
            for n in numbers:
                pair = [float(attributes[axis + n]) for axis in "xy" if axis + n in attributes]
                place, cut = _place(pair, scale, plan.source, label) if len(pair) == 2 else (None, 0)
                if place is None:
                    unread.append(tag[0].strip())
                else:
                    found.append(place)
                    clipped += cut
        return Places(tuple(found), tuple(unread), clipped)

    def write(self, places: Iterable[Place], plan: ImagePlan) -> str:
        """See `PlaceStyle`; one decimal, sorted from left to right and top to bottom."""
        items = list(places)
        points = sorted(_percent(place, plan) for place in items)
        label = items[0].label if items else ""
        if len(points) == 1:
            return f'<point x="{points[0][0]:.1f}" y="{points[0][1]:.1f}" alt="{label}">{label}</point>'
        pairs = " ".join(f'x{n}="{x:.1f}" y{n}="{y:.1f}"' for n, (x, y) in enumerate(points, 1))
        return f'<points {pairs} alt="{label}">{label}</points>'


@dataclass(frozen=True, kw_only=True, slots=True)
class LocTokens:
    """Four tokens a box: top, left, bottom, right on a grid of 1024.

    Attributes:
        question: how a phrase is asked for.
        grid: how many location tokens there are.
    """

    question: str
    template: ClassVar[str | None] = None
    controls: ClassVar[bool] = False
    grid: int = 1024

    def read(self, text: str, plan: ImagePlan) -> Places:
        """See `PlaceStyle`."""
        scale = (plan.source[0] / self.grid, plan.source[1] / self.grid)
        found: list[Place] = []
        unread: list[str] = []
        for run in re.finditer(r"((?:<loc\d{4}>\s*)+)([^<;]*)", text):
            cells = [float(n) for n in re.findall(r"\d{4}", run[1])]
            for at in range(0, len(cells), 4):
                four = cells[at : at + 4]
                if len(four) < 4:
                    unread.append("".join(f"<loc{int(n):04d}>" for n in four))
                    continue
                top, left, bottom, right = four
                place, _ = _place([left, top, right, bottom], scale, plan.source, run[2].strip())
                if place is not None:
                    found.append(place)
        return Places(tuple(found), tuple(unread))

    def write(self, places: Iterable[Place], plan: ImagePlan) -> str:
        """See `PlaceStyle`."""
        written = []
        for place in places:
            assert place.box is not None
            cells = [
                min(self.grid - 1, max(0, int(place.box[axis] * self.grid / plan.source[axis % 2])))
                for axis in (1, 0, 3, 2)
            ]
            written.append("".join(f"<loc{cell:04d}>" for cell in cells) + (f" {place.label}" if place.label else ""))
        return " ; ".join(written)


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchBoxes:
    """Boxes as the patches that hold their upper left and lower right corners (Peng et al. 2023, "Kosmos-2", §2).

    `<phrase>words</phrase><object><patch_index_0044><patch_index_0863></object>`, on a grid over the picture as the
    model sees it; several boxes of one phrase are parted by `</delimiter_of_multi_objects/>`. A corner is its patch's
    middle; where both lie in one row or column of patches, the box spans the patches whole, as published.

    Attributes:
        question, template, controls: see `PlaceStyle`.
        grid: patches along one side.
    """

    question: str
    template: str | None = None
    controls: bool = True
    grid: int = 32

    def read(self, text: str, plan: ImagePlan) -> Places:
        """See `PlaceStyle`; a list of patches that isn't closed is read as well."""
        found: list[Place] = []
        unread: list[str] = []
        clipped, label, end = 0, "", 0
        for run in re.finditer(rf"(?:<patch_index_\d+>\s*|{_DELIMITER}\s*)+", text):
            words = re.findall(r"<phrase>(.*?)</phrase>", text[end : run.start()], re.DOTALL)
            label, end = (words[-1].strip() if words else label), run.end()
            for piece in run[0].split(_DELIMITER):
                cells = [int(cell) for cell in re.findall(r"<patch_index_(\d+)>", piece)]
                place, cut = self._place(cells, plan, label)
                if place is not None:
                    found.append(place)
                    clipped += cut
                elif piece.strip():
                    unread.append(piece.strip())
        return Places(tuple(found), tuple(unread), clipped)

    def _place(self, cells: list[int], plan: ImagePlan, label: str) -> tuple[Place | None, int]:
        if len(cells) != 2 or not all(0 <= cell < self.grid**2 for cell in cells):
            return None, 0
        (top, left), (bottom, right) = (divmod(cell, self.grid) for cell in cells)
        whole = left == right or top == bottom
        near, far = (0.0, 1.0) if whole else (0.5, 0.5)
        width, height = plan.crops[0].size
        x0, y0 = plan.to_source((left + near) / self.grid * width, (top + near) / self.grid * height)
        x1, y1 = plan.to_source((right + far) / self.grid * width, (bottom + far) / self.grid * height)
        return _place([x0, y0, x1, y1], (1.0, 1.0), plan.source, label)

    def write(self, places: Iterable[Place], plan: ImagePlan) -> str:
        """See `PlaceStyle`; neighbours of one label share its tags."""
        written: list[str] = []
        last: str | None = None
        for place in places:
            box = place.box or (*(place.point or (0.0, 0.0)), *(place.point or (0.0, 0.0)))
            pair = "".join(f"<patch_index_{self._cell(box[at], box[at + 1], plan):04d}>" for at in (0, 2))
            if written and place.label == last:
                written[-1] = written[-1].removesuffix("</object>") + _DELIMITER + pair + "</object>"
            else:
                words = f"<phrase>{place.label}</phrase>" if place.label else ""
                written.append(f"{words}<object>{pair}</object>")
            last = place.label
        return "".join(written)

    def _cell(self, x: float, y: float, plan: ImagePlan) -> int:
        crop, (width, height) = plan.crops[0], plan.source
        across = (x * crop.resized[0] / width + crop.offset[0]) / crop.size[0]
        down = (y * crop.resized[1] / height + crop.offset[1]) / crop.size[1]
        column, row = (min(self.grid - 1, max(0, math.floor(share * self.grid))) for share in (across, down))
        return row * self.grid + column


_DELIMITER = "</delimiter_of_multi_objects/>"


def _around(quad: re.Match[str]) -> str:
    """Four corners → the box around them, as two pairs."""
    pairs = re.findall(_PAIR, quad[1])
    if len(pairs) != 4:
        return quad[0]
    across, down = ([float(pair[axis]) for pair in pairs] for axis in (0, 1))
    return f"({min(across)},{min(down)}),({max(across)},{max(down)})"


def _read_tuples(text: str, scale: Point, size: tuple[int, int]) -> Places:
    """Every bracketed run of numbers: four are a box, two a point; two pairs in a row are a box."""
    text = re.sub(rf"{_PAIR}\s*,?\s*{_PAIR}", r"[\1,\2,\3,\4]", text)
    found: list[Place] = []
    unread: list[str] = []
    clipped = 0
    for run in re.finditer(r"[\[(]([\d\s.,;%\-]+)[\])]?", text):
        for piece in run[1].split(";"):
            numbers, per = _numbers(piece, scale, size)
            place, cut = _place(numbers, per, size, "")
            if place is None:
                unread.append(run[0].strip())
            else:
                found.append(place)
                clipped += cut
    return Places(tuple(found), tuple(unread), clipped)


def _numbers(text: str, scale: Point, size: tuple[int, int]) -> tuple[list[float], Point]:
    """The numbers of one place, and pixels of one of their units.

    They are in the family's units, unless they can't be: all with a percent sign, or all from 0 to 1 with at least one
    that is no whole number, where they are shares of the picture's sides.
    """
    spelled = re.findall(_NUMBER + r"\s*%?", text)
    numbers = [float(n.rstrip("% \n\t")) for n in spelled]
    width, height = float(size[0]), float(size[1])
    if numbers and all(n.endswith("%") for n in spelled):
        return numbers, (width / 100, height / 100)
    if numbers and all(0 <= n <= 1 for n in numbers) and any(n not in (0, 1) for n in numbers):
        return numbers, (width, height)
    return numbers, scale


def _place(numbers: Sequence[float], scale: Point, size: tuple[int, int], label: str) -> tuple[Place | None, int]:
    """A place in original pixels, and 1 where it had to be clipped; None for another count or an empty box."""
    if len(numbers) not in (2, 4) or not all(math.isfinite(n) for n in numbers):
        return None, 0
    raw = [number * scale[axis % 2] for axis, number in enumerate(numbers)]
    inside = [min(max(value, 0.0), float(size[axis % 2])) for axis, value in enumerate(raw)]
    cut = int(any(abs(a - b) > 1e-6 for a, b in zip(raw, inside, strict=True)))
    if len(numbers) == 2:
        return Place(point=(inside[0], inside[1]), label=label), cut
    x0, x1 = sorted((inside[0], inside[2]))
    y0, y1 = sorted((inside[1], inside[3]))
    if x1 <= x0 or y1 <= y0:
        return None, cut
    return Place(box=(x0, y0, x1, y1), label=label), cut


def _percent(place: Place, plan: ImagePlan) -> Point:
    x, y = place.point or (0.0, 0.0)
    if place.box is not None and place.point is None:
        x, y = (place.box[0] + place.box[2]) / 2, (place.box[1] + place.box[3]) / 2
    return 100 * x / plan.source[0], 100 * y / plan.source[1]
