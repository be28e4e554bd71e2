"""Documents in which text and pictures alternate: OBELICS (`images` and `texts` side by side) and MMC4.

OBELICS: position i holds a text or a picture, the other list has null there. MMC4 (Zhu et al. 2023): `text_list`, and
`image_info` whose `matched_text_index` says before which text a picture stands. A document is one assistant turn: all
of its text is learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.messages import Conversation, ImagePart, Message, Part, TextPart
from chiasm.data.formats import Reading, Shape
from chiasm.data.rows import Content


def _document(parts: list[Part], record: Mapping[str, Any], own: tuple[str, ...]) -> Content:
    if not parts:
        raise DataError("row_malformed", "the document holds 0 texts and 0 pictures")
    kept = {name: value for name, value in record.items() if name not in own and value is not None}
    return Content(
        conversation=Conversation((Message("assistant", tuple(parts)),)), annotations={"kind": "document", **kept}
    )


def _fits_obelics(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("images"), list) and isinstance(record.get("texts"), list)


def _read_obelics(record: Mapping[str, Any], reading: Reading) -> Content:
    images, texts = record.get("images"), record.get("texts")
    if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts):
        counts = " and ".join(str(len(each)) if isinstance(each, list) else "no list" for each in (images, texts))
        raise DataError("row_malformed", f"images and texts stand side by side, but their lengths are {counts}")
    parts: list[Part] = []
    for number, (image, text) in enumerate(zip(images, texts, strict=True)):
        if bool(image) == bool(text):
            what = "both a picture and a text" if image else "neither a picture nor a text"
            raise DataError("row_malformed", f"position {number} of the document holds {what}")
        parts.append(ImagePart(reading.find(image)) if image else TextPart(text))
    return _document(parts, record, ("images", "texts"))


def _fits_mmc4(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("image_info"), list) and isinstance(record.get("text_list"), list)


def _read_mmc4(record: Mapping[str, Any], reading: Reading) -> Content:
    texts = record.get("text_list")
    if not isinstance(texts, list):
        raise DataError("row_malformed", f"text_list is a {type(texts).__name__}, not a list")
    before: dict[int, list[Part]] = {}
    for number, info in enumerate(record.get("image_info") or []):
        place = info.get("matched_text_index") if isinstance(info, Mapping) else None
        if not isinstance(place, int) or not 0 <= place < len(texts):
            raise DataError("row_malformed", f"picture {number} belongs to text {place}, there are {len(texts)}")
        source = next((info[key] for key in ("image_name", "image", "path", "raw_url") if info.get(key)), None)
        before.setdefault(place, []).append(ImagePart(reading.find(source)))
    parts: list[Part] = []
    for place, text in enumerate(texts):
        parts += before.get(place, [])
        if isinstance(text, str) and text:
            # sentences come without the space between them
            glue = " " if parts and isinstance(parts[-1], TextPart) else ""
            parts.append(TextPart(glue + text))
    return _document(parts, record, ("image_info", "text_list", "similarity_matrix"))


READERS = (
    Shape(name="interleaved (OBELICS)", fits=_fits_obelics, read=_read_obelics),
    Shape(name="interleaved (MMC4)", fits=_fits_mmc4, read=_read_mmc4),
)
