"""Molmo's points (Deitke et al. 2024, PixMo): a picture, a `label`, and `points`.

PixMo-Points writes a list of `{"x", "y"}` in percent of the picture's sides; PixMo-Count writes `{"x": […], "y": […]}`
in pixels. Both come out in original pixels, which takes the picture's header. The published rows hold addresses; put
the picture's path or bytes into `image`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart
from chiasm.data.formats import Reading, Shape
from chiasm.data.rows import Content
from chiasm.processing.pictures import picture_size

_OWN = ("image", "image_path", "path", "points", "label", "image_url")


def _fits(record: Mapping[str, Any]) -> bool:
    points = record.get("points")
    listed = isinstance(points, list) and all(isinstance(point, Mapping) and "x" in point for point in points)
    columns = isinstance(points, Mapping) and {"x", "y"} <= set(points)
    return "label" in record and (listed or columns)


def _read(record: Mapping[str, Any], reading: Reading) -> Content:
    given = next((record[key] for key in ("image", "image_path", "path", "image_url") if record.get(key)), None)
    source, points, label = reading.find(given), record.get("points"), str(record.get("label") or "")
    scale = (1.0, 1.0)
    if isinstance(points, Mapping):
        xs, ys = points.get("x"), points.get("y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            raise DataError("row_malformed", "the points' x and y are not two lists of one length")
        pairs = list(zip(xs, ys, strict=True))
    elif isinstance(points, list):
        pairs = [(point.get("x"), point.get("y")) if isinstance(point, Mapping) else (None, None) for point in points]
        width, height = picture_size(source) if pairs else (0, 0)
        scale = (width / 100, height / 100)
    else:
        raise DataError("row_malformed", f"the points are a {type(points).__name__}, not a list")
    found = []
    for number, pair in enumerate(pairs):
        if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in pair):
            raise DataError("row_malformed", f"point {number} is {pair[0]}, {pair[1]}, not two numbers")
        found.append({"point": [float(pair[0]) * scale[0], float(pair[1]) * scale[1]], "phrase": label})
    kept = {name: value for name, value in record.items() if name not in _OWN and value is not None}
    return Content(
        conversation=Conversation((Message("user", (ImagePart(source), TextPart(label))),)),
        annotations={"kind": "points", **kept, "points": found, "label": label},
    )


READERS = (Shape(name="points", fits=_fits, read=_read),)
