"""What a search found as one picture: thumbnails side by side with their scores and names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from chiasm.core.errors import ChiasmError, PictureError
from chiasm.core.files import replacing
from chiasm.processing.pictures import read_picture

COLUMNS, SIDE, LINE, GAP = 5, 200, 22, 8
MOST = 1000  # a sheet of more takes hundreds of MB, and JPEG ends at 65,535 pixels
PAPER, INK, MISSING = (245, 245, 240), (20, 20, 20), (225, 215, 215)


def check(out: Path, count: int) -> None:
    """Refuse a sheet that can't be written.

    Args:
        out: .png, .jpg or .jpeg.
        count: most pictures on it.

    Raises:
        ChiasmError: sheet_format or sheet_too_large.
    """
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ChiasmError("sheet_format", f"--sheet ends in {out.suffix!r}, known are .png and .jpg", hint="found.png")
    if count > MOST:
        raise ChiasmError("sheet_too_large", f"{count} pictures for one sheet, the most are {MOST}", hint="--limit 100")


def draw(found: Sequence[tuple[str, str]], out: Path) -> None:
    """Write the picture.

    Args:
        found: (path, words below) each, best first; a file that is gone or can't be read leaves an empty place.
        out: where.

    Raises:
        ChiasmError: as `check`.
    """
    check(out, len(found))
    rows = max(1, -(-len(found) // COLUMNS))
    size = COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + LINE + GAP) + GAP
    sheet = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (path, words) in enumerate(found):
        row, column = divmod(number, COLUMNS)
        left, top = GAP + column * (SIDE + GAP), GAP + row * (SIDE + LINE + GAP)
        try:
            picture = read_picture(path)
            picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
        except PictureError:
            pen.rectangle((left, top, left + SIDE, top + SIDE), fill=MISSING)
        while words and pen.textlength(words, font) > SIDE:
            words = words[:-2] + "…" if len(words) > 2 else ""
        pen.text((left, top + SIDE + 4), words, fill=INK, font=font)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as beside:
        sheet.save(beside)
