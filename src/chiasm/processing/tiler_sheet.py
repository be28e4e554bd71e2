"""One picture through every tiler, as a picture: `python -m chiasm.processing.tiler_sheet OUT.png [PICTURE]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from chiasm.core.plan import ImagePlan
from chiasm.processing.pictures import read_picture
from chiasm.processing.tiler_table import TILERS
from chiasm.processing.tilers import Tiler

PANEL, GAP, COLUMNS = (470, 330), 4, 3
PAPER, INK = (245, 245, 240), (20, 20, 20)


def card(size: tuple[int, int] = (1920, 1080)) -> Image.Image:
    """A picture that shows what tilers do: a grid, letters from large to tiny, shapes, marks in all four corners."""
    width, height = size
    picture = Image.new("RGB", size, (252, 250, 240))
    draw = ImageDraw.Draw(picture)
    for number in range(1, 16):
        shade = (210, 220, 230) if number % 4 else (160, 180, 200)
        draw.line((width * number / 16, 0, width * number / 16, height), fill=shade, width=2)
        draw.line((0, height * number / 16, width, height * number / 16), fill=shade, width=2)
    top = 0.08 * height
    for share in (0.13, 0.09, 0.055, 0.035, 0.022, 0.014):
        draw.text(
            (0.1 * width, top), "Every pixel has its place", fill=INK, font=ImageFont.load_default(share * height)
        )
        top += 1.35 * share * height
    unit = height / 8
    draw.ellipse((11.2 * unit, 4.6 * unit, 13.2 * unit, 6.6 * unit), fill=(220, 60, 60))
    draw.rectangle((8.6 * unit, 4.9 * unit, 10.4 * unit, 6.7 * unit), fill=(60, 120, 220))
    draw.polygon((6.2 * unit, 6.8 * unit, 7.2 * unit, 5.0 * unit, 8.2 * unit, 6.8 * unit), fill=(60, 160, 90))
    for x in (0, width - unit / 2):
        for y in (0, height - unit / 2):
            draw.rectangle((x, y, x + unit / 2, y + unit / 2), fill=(240, 170, 40))
    return picture


def sheet(picture: Image.Image) -> Image.Image:
    """What every tiler of the table makes of a picture: its crops, side by side, as the tower gets them."""
    rows = -(-len(TILERS) // COLUMNS)
    out = Image.new("RGB", (COLUMNS * PANEL[0], rows * PANEL[1]), PAPER)
    for number, (name, tiler) in enumerate(TILERS.items()):
        row, column = divmod(number, COLUMNS)
        out.paste(_panel(name, tiler, picture), (column * PANEL[0], row * PANEL[1]))
    return out


def _panel(name: str, tiler: Tiler, picture: Image.Image) -> Image.Image:
    plan = tiler.plan(picture.size)
    crops = [_shown(crop) for crop in tiler.render(picture, plan)]
    panel = Image.new("RGB", PANEL, PAPER)
    title = f"{name}: {plan.num_tokens} tokens, {len(crops)} crop{'s' if len(crops) > 1 else ''}"
    ImageDraw.Draw(panel).text((8, 6), title, fill=INK, font=ImageFont.load_default(15))
    whole = _laid_out(crops, plan)
    whole.thumbnail((PANEL[0] - 16, PANEL[1] - 36), Image.Resampling.LANCZOS)
    panel.paste(whole, (8, 28))
    return panel


def _laid_out(crops: Sequence[Image.Image], plan: ImagePlan) -> Image.Image:
    """Tiles in their grid with gaps; the whole picture, where there is one beside them, stands on the left."""
    rows, columns = plan.grid
    width, height = crops[0].size
    extra = len(crops) - rows * columns
    gap = GAP * max(1, width * columns // PANEL[0])
    # it comes last in InternVL's order and first in everybody else's; it is scaled down further than the tiles
    last = extra and plan.crops[-1].resized[0] < plan.crops[0].resized[0]
    tiles = crops[:-1] if last else crops[extra:]
    beside = crops[-1:] if last else crops[:extra]
    left = (width + 3 * gap) * len(beside)
    out = Image.new("RGB", (left + columns * (width + gap) - gap, max(rows * (height + gap) - gap, height)), PAPER)
    for crop in beside:
        out.paste(crop, (0, 0))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        out.paste(tile, (left + column * (width + gap), row * (height + gap)))
    return out


def _shown(crop: Any) -> Image.Image:
    return crop if isinstance(crop, Image.Image) else Image.fromarray(np.clip(crop, 0, 255).round().astype(np.uint8))


if __name__ == "__main__":
    shown = read_picture(sys.argv[2]) if len(sys.argv) > 2 else card()
    sheet(shown).quantize(160).save(sys.argv[1], optimize=True)
