"""RefCOCO, RefCOCO+ and RefCOCOg (Yu et al. 2016; Mao et al. 2016): phrases that each refer to one box.

The published `refs(…).p` is pickled, and unpickling runs whatever the file says, so this reads its content as JSON:
the same list of references, with COCO's `instances.json` beside it for boxes and pictures (or a `bbox` in each
reference). One row a phrase; it asks for the phrase, and the box is in `boxes`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart
from chiasm.core.samples import Place
from chiasm.data.formats import Layout, Options
from chiasm.data.pictures import PictureFinder
from chiasm.data.readers.coco import corners, opening, subset_of
from chiasm.data.rows import Content, Fault, Rows, blank
from chiasm.data.stamps import digest_of, file_digest
from chiasm.data.strict_json import parse_json


class ReferenceRows(Rows):
    """The phrases of one file of references."""

    def __init__(self, path: Path, options: Options) -> None:
        references = parse_json(path.read_bytes(), str(path))
        self.path, self.name = path, path.stem
        digests, self._boxes, self._files = [file_digest(path)], {}, {}
        beside = sorted(path.parent.glob("instances*.json"))
        if beside and not all("bbox" in each for each in references):
            document = parse_json(beside[0].read_bytes(), str(beside[0]))
            self._boxes = {each["id"]: each["bbox"] for each in document.get("annotations", [])}
            self._files = {each["id"]: each["file_name"] for each in document.get("images", [])}
            digests.append(file_digest(beside[0]))
        names = ["train2014", *subset_of(path)]
        self._find = PictureFinder.beside(path, options.images, names)
        self._rows: list[tuple[dict[str, Any], int]] = []
        faults = []
        for number, each in enumerate(references):
            if not isinstance(each, dict) or not isinstance(each.get("sentences"), list):
                faults.append(Fault(Place(str(path), number), "row_malformed", "the reference has no sentences"))
            else:
                self._rows += [(each, i) for i in range(len(each["sentences"]))]
        self.faults = tuple(faults)
        self.fingerprint = digest_of("references", *digests)

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, index: int) -> Place:
        """Where row `index` stands: the file, the reference's id and the number of its phrase."""
        reference, number = self._rows[index]
        return Place(str(self.path), f"{reference.get('ref_id')}/{number}")

    def key(self, index: int) -> str:
        """The file's name, the reference's id and the number of its phrase."""
        return f"{self.name}/{self.place(index).row}"

    def content(self, index: int) -> Content:
        """Row `index`."""
        reference, number = self._rows[index]
        sentence = reference["sentences"][number]
        phrase = str(sentence.get("sent") or sentence.get("raw") or "") if isinstance(sentence, dict) else str(sentence)
        if blank(phrase):
            raise DataError("question_empty", f"phrase {number} of the reference holds no visible character")
        box = reference.get("bbox") or self._boxes.get(reference.get("ann_id"))
        if box is None:
            what = f"no box of annotation {reference.get('ann_id')}"
            raise DataError("box_missing", what, hint=f"put instances.json into {self.path.parent}")
        # the references' own file names end in the annotation's number; the pictures' don't
        own = re.sub(r"_\d+(\.\w+)$", r"\1", str(reference.get("file_name", "")))
        source = self._find(self._files.get(reference.get("image_id")) or own)
        found = {"id": reference.get("ref_id"), "kind": "refer", "image_id": reference.get("image_id")}
        if reference.get("split"):
            found["split"] = reference["split"]
        turn = Message("user", (ImagePart(source), TextPart(phrase)))
        boxes = [{"box": corners(box), "phrase": phrase}]
        return Content(conversation=Conversation((turn,)), annotations={**found, "boxes": boxes})


def _fits(path: Path) -> bool:
    head = opening(path, 2**14)
    return head.lstrip()[:1] == b"[" and b'"sentences"' in head and b'"ref_id"' in head


READERS = (Layout(name="references (RefCOCO)", fits=_fits, open=ReferenceRows),)
