"""COCO's files (Lin et al. 2014; Chen et al. 2015): `images` and `annotations`, with captions or with boxes.

One row a picture, with all of its captions or boxes. Boxes come as `[x, y, width, height]` and go out as corners, each
with the name of its category as its phrase. Pictures are looked for beside the file, in `images`, and in the folder
that the file's own name ends in (`captions_train2017.json`: `train2017`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart
from chiasm.core.samples import Place
from chiasm.data.formats import Layout, Options
from chiasm.data.pictures import PictureFinder
from chiasm.data.rows import Content, Fault, Rows
from chiasm.data.stamps import file_digest
from chiasm.data.strict_json import parse_json

_HEAD = 2**16


def opening(path: Path, size: int = _HEAD) -> bytes:
    """The first and the last bytes of a JSON file; empty for anything else."""
    if not path.is_file() or path.suffix.lower() != ".json":
        return b""
    with open(path, "rb") as file:
        head = file.read(size)
        file.seek(max(len(head), path.stat().st_size - size))
        return head + b"\n" + file.read()


def corners(box: Any) -> list[float]:
    """`[x, y, width, height]` as `[x0, y0, x1, y1]`.

    Raises:
        DataError: not four finite numbers.
    """
    good = isinstance(box, list) and len(box) == 4
    if not good or not all(isinstance(value, (int, float)) and math.isfinite(value) for value in box):
        raise DataError("row_malformed", f"the box {str(box)[:80]} is not [x, y, width, height]")
    x, y, width, height = map(float, box)
    return [x, y, x + width, y + height]


def subset_of(path: Path) -> list[str]:
    """Names of picture folders that a file's name hints at."""
    return re.findall(r"(?:train|val|test)(?:\d{4})?", path.stem)


class CocoRows(Rows):
    """The rows of one COCO file."""

    def __init__(self, path: Path, options: Options) -> None:
        document = parse_json(path.read_bytes(), str(path))
        images, annotations = document.get("images"), document.get("annotations") or []
        if not isinstance(images, list) or not isinstance(annotations, list):
            raise DataError("format_unknown", f"{path} has no lists called images and annotations")
        self.path, self.name, self.fingerprint = path, path.stem, file_digest(path)
        self._find = PictureFinder.beside(path, options.images, subset_of(path))
        self._names = {each["id"]: str(each["name"]) for each in document.get("categories") or []}
        known: dict[Any, list[dict[str, Any]]] = {}
        faults = []
        listed = []
        for position, each in enumerate(images):
            number: Any = each.get("id") if isinstance(each, Mapping) and "id" in each else f"images[{position}]"
            if not isinstance(each, Mapping) or not isinstance(each.get("id"), (int, str)):
                faults.append(Fault(Place(str(path), str(number)), "row_malformed", "the picture has no id"))
            elif each["id"] in known:
                faults.append(Fault(Place(str(path), each["id"]), "sample_duplicate", "the id is listed before"))
            else:
                known[each["id"]] = []
                listed.append(each)
        for number, each in enumerate(annotations):
            owner = each.get("image_id") if isinstance(each, Mapping) else None
            if isinstance(owner, (int, str)) and owner in known:
                known[owner].append(each)
            else:
                place = Place(
                    str(path), f"annotation {each.get('id', number) if isinstance(each, Mapping) else number}"
                )
                faults.append(Fault(place, "annotation_orphan", f"it belongs to picture {owner!r}, which isn't listed"))
        captioned = any("caption" in each for each in annotations if isinstance(each, Mapping))
        self._rows = []
        for image in listed:
            if captioned and not known[image["id"]]:
                faults.append(Fault(Place(str(path), image["id"]), "caption_empty", "the picture has 0 captions"))
            else:
                self._rows.append((image, known[image["id"]]))
        self.faults = tuple(faults)

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, index: int) -> Place:
        """Where row `index` stands: the file and the picture's id."""
        return Place(str(self.path), self._rows[index][0]["id"])

    def key(self, index: int) -> str:
        """The file's name and the picture's id."""
        return f"{self.name}/{self._rows[index][0]['id']}"

    def content(self, index: int) -> Content:
        """Row `index`."""
        image, annotations = self._rows[index]
        source = self._find(image.get("file_name") or str(image.get("coco_url") or "").rpartition("/")[2])
        captions = tuple(str(each["caption"]).strip() for each in annotations if "caption" in each)
        if captions and not captions[0]:
            raise DataError("caption_empty", "the picture's first caption holds no visible character")
        boxes = [
            {"box": corners(each["bbox"]), "phrase": self._names.get(each.get("category_id"), "")}
            | ({"crowd": True} if each.get("iscrowd") else {})
            for each in annotations
            if "bbox" in each
        ]
        turns = [Message("user", (ImagePart(source),))]
        if captions:
            turns.append(Message("assistant", (TextPart(captions[0]),)))
        found: dict[str, Any] = {"id": image["id"]} | ({"boxes": boxes, "kind": "boxes"} if boxes else {})
        return Content(conversation=Conversation(tuple(turns)), captions=captions, annotations=found)


def _fits(path: Path) -> bool:
    head = opening(path)
    return (
        head.lstrip()[:1] == b"{"
        and re.search(rb'"images"\s*:\s*\[', head) is not None
        and re.search(rb'"(file_name|coco_url)"\s*:', head) is not None
    )


READERS = (Layout(name="COCO", fits=_fits, open=CocoRows),)
