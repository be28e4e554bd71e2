"""Boxes and points drawn onto a picture."""

from __future__ import annotations

from collections.abc import Iterable

from PIL import Image, ImageDraw

from chiasm.processing.coordinates import Box, Point
from chiasm.processing.pictures import Colour


def draw_places(
    picture: Image.Image, places: Iterable[tuple[Box | None, Point | None, str]], colour: Colour
) -> Image.Image:
    """A copy of a picture with places on it.

    Args:
        picture: RGB.
        places: (box, point, label) in its pixels; either may be None.
        colour: of lines and labels.

    Returns:
        A new picture of the same size.
    """
    out = picture.copy()
    draw = ImageDraw.Draw(out)
    line = max(1, round(max(picture.size) / 300))
    for box, point, label in places:
        corner = point
        if box is not None:
            draw.rectangle(box, outline=colour, width=line)
            corner = (box[0], box[1])
        if point is not None:
            radius = 3 * line
            draw.ellipse((point[0] - radius, point[1] - radius, point[0] + radius, point[1] + radius), fill=colour)
        if corner is not None and label.isascii():
            draw.text((corner[0] + line, corner[1] + line), label, fill=colour)
    return out
