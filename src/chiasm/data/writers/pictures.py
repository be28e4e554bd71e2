"""Targets made of pictures: a folder with a `.txt` beside each, and COCO's captions or boxes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from chiasm.core.files import write_text
from chiasm.core.samples import Sample
from chiasm.data.writing import Writer, pair_of, picture_bytes, plain, unfit
from chiasm.processing.pictures import picture_size


def _bare(sample: Sample, to: str) -> tuple[Any, list[str]]:
    """The picture of a bare pair, and its captions."""
    pair = pair_of(sample)
    if pair is None or len(pair.pictures) != 1 or pair.question:
        raise unfit(sample, "not one picture with captions", to)
    return pair.pictures[0], list(sample.captions) or ([] if pair.reply is None else [pair.reply])


@dataclass(slots=True)
class FolderWriter(Writer):
    """`000000000.jpg` and `000000000.txt`, a caption a line."""

    def add(self, sample: Sample, number: int) -> None:
        """Write one row."""
        source, captions = _bare(sample, "folder")
        if any(len(caption.splitlines()) != 1 for caption in captions):
            raise unfit(sample, "a caption of several lines, or none", "folder")
        data, suffix = picture_bytes(source)
        (self.folder / f"{number:09d}.{suffix}").write_bytes(data)
        if captions:
            (self.folder / f"{number:09d}.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
        self.pictures += 1
        self.left_out["annotations"] += bool(set(sample.annotations) - {"id"})

    def close(self) -> None:
        """Nothing is left."""


@dataclass(slots=True)
class CocoWriter(Writer):
    """`annotations.json` with captions and boxes; categories are the boxes' phrases."""

    _images: list[dict[str, Any]] = field(default_factory=list)
    _annotations: list[dict[str, Any]] = field(default_factory=list)
    _categories: dict[str, int] = field(default_factory=dict)

    def add(self, sample: Sample, number: int) -> None:
        """Write one row."""
        source, captions = _bare(sample, "coco")
        name = self.store(source, f"{number:09d}")
        width, height = picture_size(source)
        self._images.append({"id": number, "file_name": name, "width": width, "height": height})
        for caption in captions:
            self._annotate(number, {"caption": caption})
        for each in plain(sample.annotations.get("boxes", []), str(sample.place)):
            x0, y0, x1, y1 = each["box"]
            category = self._categories.setdefault(each.get("phrase", ""), len(self._categories) + 1)
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "category_id": category}
            self._annotate(number, box | {"iscrowd": int(bool(each.get("crowd")))})
        kept = {"boxes", "kind", "id"} if "boxes" in sample.annotations else {"id"}
        self.left_out["annotations"] += bool(set(sample.annotations) - kept)

    def _annotate(self, number: int, what: dict[str, Any]) -> None:
        self._annotations.append({"id": len(self._annotations) + 1, "image_id": number, **what})

    def close(self) -> None:
        """Write the file."""
        categories = [{"id": number, "name": name} for name, number in self._categories.items()]
        document = {"images": self._images, "annotations": self._annotations, "categories": categories}
        write_text(self.folder / "annotations.json", json.dumps(document, ensure_ascii=False))


WRITERS = {"folder": FolderWriter, "coco": CocoWriter}
