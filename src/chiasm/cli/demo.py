"""`chiasm demo`: the bundled models at work on real pictures, from this machine alone.

The photographs travel in scikit-image's wheel (read as files, never imported), the drawings in OpenMoji's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiasm.cli.ask import user_turn
from chiasm.cli.options import OUTPUT, Output
from chiasm.cli.output import emit, note
from chiasm.core.errors import SourceError

if TYPE_CHECKING:
    from PIL import Image

    from chiasm.data.worlds.questions import Question
    from chiasm.data.worlds.scenes import Scene

PHOTOS = {"chelsea.png": "cat", "coffee.png": "cup", "rocket.jpg": "rocket", "horse.png": "horse", "coins.png": "coins"}
DRAWINGS = {"1F352": "cherries", "1F6B2": "bicycle", "1F418": "elephant"}  # OpenMoji's codes
LABELS = (
    "cat", "dog", "cup", "rocket", "horse", "coins", "cherries", "bicycle", "elephant", "guitar", "umbrella", "chair",
)  # fmt: skip
TEMPLATE = "a picture of a {}"
KINDS = ("naming", "position", "counting", "yes_no", "caption")
SEED, TRIES = 7, 4000
TILE, LINE, COLUMNS = 224, 14, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """One picture of the demo with the lines written under it."""

    picture: Image.Image
    lines: tuple[str, ...]


def demo(*, out: Path = Path("runs/demo"), options: Output = OUTPUT) -> None:
    """Show the bundled models at work on real pictures and generated scenes.

    Args:
        out: Folder for the pictures and the contact sheet.
    """
    from chiasm.weights.bundled import SUMMARIES, bundled_folders

    start = time.perf_counter()
    there = bundled_folders()
    if not there:
        raise SourceError("bundle_missing", f"0 of {len(SUMMARIES)} bundled models are in this installation")
    for name in sorted(set(SUMMARIES) - set(there)):
        note(f"{name} is not in this installation and is left out")
    out.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"classified": [], "answered": []}
    shown: list[Shown] = []
    if "nano-dual" in there:
        document["classified"] = _classify(out, shown)
    if "nano" in there:
        document["answered"] = _answer(out, shown)
    sheet = out / "contact_sheet.png"
    contact_sheet(shown).save(sheet)
    document |= {"contact_sheet": str(sheet), "seconds": round(time.perf_counter() - start, 1)}
    if options.json:
        emit(document)
    else:
        _print(document)


def photographs() -> dict[str, Path]:
    """The real photographs by what they show; empty when the wheel that carries them isn't installed."""
    from chiasm.weights.sources import find_wheel_file

    found = {}
    for file, truth in PHOTOS.items():
        try:
            found[truth] = find_wheel_file("scikit-image", f"skimage/data/{file}")
        except SourceError as error:
            note(f"photograph left out: {error}")
    return found


def _classify(out: Path, shown: list[Shown]) -> list[dict[str, Any]]:
    import chiasm
    from chiasm.data.packs import load_pack
    from chiasm.processing.pictures import read_picture

    model = chiasm.load("nano-dual", offline=True)
    pictures = [(truth, read_picture(path)) for truth, path in photographs().items()]
    emoji = {picture.key.removeprefix("openmoji/"): picture for picture in load_pack("openmoji")}
    pictures += [(truth, read_picture(emoji[code].open(TILE))) for code, truth in DRAWINGS.items() if code in emoji]
    ranked = model.classify([picture for _, picture in pictures], list(LABELS), templates=[TEMPLATE])
    rows = []
    for (truth, picture), ranking in zip(pictures, ranked, strict=True):
        file = out / f"{truth}.png"
        picture.save(file)
        top = [{"label": label, "probability": probability} for label, probability in ranking[:3]]
        rows.append({"picture": str(file), "shows": truth, "top": top})
        lines = tuple(
            f"{'*' if label == truth else ' '} {label} {probability:.0%}" for label, probability in ranking[:3]
        )
        shown.append(Shown(picture=picture, lines=lines))
    return rows


def _answer(out: Path, shown: list[Shown]) -> list[dict[str, Any]]:
    import chiasm
    from chiasm.data.worlds.scenes import draw

    model = chiasm.load("nano", offline=True)
    art = EmojiShelf()
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        scene, question = _drawable(kind, art)
        picture = draw(scene, art)
        file = out / f"scene_{kind}.png"
        picture.save(file)
        text = model.generate([[user_turn([str(file)], question.text)]], max_new_tokens=24)[0].text.strip()
        right = _plain(text) == _plain(question.answer)
        rows.append(
            {"picture": str(file), "question": question.text, "answer": text, "truth": question.answer, "right": right}
        )
        shown.append(Shown(picture=picture, lines=(question.text, f"{'*' if right else ' '} {text}")))
    return rows


class EmojiShelf:
    """The pictures that scenes are made of, OpenMoji's alone: they travel in a wheel."""

    def __init__(self) -> None:
        from chiasm.data.packs import load_pack

        self._records = {picture.key.removeprefix("openmoji/"): picture for picture in load_pack("openmoji")}

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __call__(self, key: str) -> Image.Image:
        """The RGBA picture of a code, transparent margins cut off."""
        art = self._records[key].open(192)
        return art.crop(art.getchannel("A").getbbox())


def _drawable(kind: str, art: EmojiShelf) -> tuple[Scene, Question]:
    """The first held-out question of a kind whose scene shows nothing but emoji."""
    from chiasm.data.worlds.questions import sample_question

    for index in range(TRIES):
        scene, question = sample_question(SEED, "test", index, kind)
        if all(thing.picture in art for thing in scene.things):
            return scene, question
    raise AssertionError(f"no {kind} scene of emoji alone in {TRIES} tries")


def _plain(text: str) -> str:
    words = text.lower().strip().rstrip(".").split()
    return " ".join(words[1:] if words[:1] in (["a"], ["an"], ["some"], ["the"]) else words)


def contact_sheet(shown: Sequence[Shown]) -> Image.Image:
    """All pictures of the demo in one, each with its lines under it.

    Args:
        shown: at least one picture.

    Returns:
        An RGB picture.
    """
    from PIL import Image, ImageDraw, ImageOps

    height = TILE + 8 + LINE * max(len(_wrapped(item.lines)) for item in shown)
    rows = -(-len(shown) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (TILE + 8) + 8, rows * (height + 8) + 8), "white")
    pen = ImageDraw.Draw(sheet)
    for number, item in enumerate(shown):
        x, y = 8 + number % COLUMNS * (TILE + 8), 8 + number // COLUMNS * (height + 8)
        sheet.paste(ImageOps.pad(item.picture.convert("RGB"), (TILE, TILE), color=(238, 238, 238)), (x, y))
        for index, line in enumerate(_wrapped(item.lines)):
            pen.text((x, y + TILE + 4 + index * LINE), line, fill="black")
    return sheet


def _wrapped(lines: Sequence[str]) -> list[str]:
    import textwrap

    return [piece for line in lines for piece in textwrap.wrap(line, 36, drop_whitespace=False)]


def _print(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if document["classified"]:
        table = Table("picture", "shows", "nano-dual says", title=f"nano-dual: one of {len(LABELS)} labels")
        for row in document["classified"]:
            said = ", ".join(f"{item['label']} {item['probability']:.0%}" for item in row["top"])
            table.add_row(
                Path(row["picture"]).name,
                row["shows"],
                said,
                style="green" if row["top"][0]["label"] == row["shows"] else "",
            )
        console.print(table)
    if document["answered"]:
        table = Table("scene", "question", "nano says", "truth", title="nano: held-out generated scenes")
        for row in document["answered"]:
            cells = (Path(row["picture"]).name, row["question"], row["answer"], row["truth"])
            table.add_row(*cells, style="green" if row["right"] else "")
        console.print(table)
    console.print(f"{document['contact_sheet']} shows them all; {document['seconds']} s", highlight=False)
