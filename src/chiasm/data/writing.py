"""What writers share: rows taken apart, pictures stored once."""

from __future__ import annotations

import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiasm.core.errors import DataError, PictureError
from chiasm.core.messages import ImagePart, Message, TextPart
from chiasm.core.samples import Sample
from chiasm.processing.picture_bytes import sniff
from chiasm.processing.pictures import encoded_picture, read_picture

SUFFIX = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A row that is pictures, perhaps a question, and at most one reply."""

    pictures: tuple[Any, ...]
    question: str
    reply: str | None


@dataclass(slots=True)
class Writer(ABC):
    """Writes one data set into an empty folder.

    Attributes:
        folder: where.
        left_out: what the format has no room for: name → rows.
        pictures: pictures written.
    """

    folder: Path
    left_out: Counter[str] = field(default_factory=Counter)
    pictures: int = 0
    _stored: dict[bytes, str] = field(default_factory=dict)

    @abstractmethod
    def add(self, sample: Sample, number: int) -> None:
        """Write one row; raises a `DataError` for a row that the format can't hold."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left."""

    def store(self, source: Any, stem: str) -> str:
        """Write a picture into `images/`, unless its bytes are there already.

        Returns:
            Its path from the folder.
        """
        data, suffix = picture_bytes(source)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if digest not in self._stored:
            path = self.folder / "images" / f"{stem}.{suffix}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            self._stored[digest] = f"images/{path.name}"
            self.pictures += 1
        return self._stored[digest]


def picture_bytes(source: Any) -> tuple[bytes, str]:
    """The encoded file behind a source as it is stored, or a PNG of its pixels; and the ending that fits.

    Raises:
        PictureError: it can't be read, or is of a format that nothing here decodes.
    """
    data = encoded_picture(source)
    if data is None:
        stream = io.BytesIO()
        read_picture(source).save(stream, "PNG")
        return stream.getvalue(), "png"
    try:
        read_picture(data)  # a picture that can't be decoded is no good copy
    except PictureError as error:
        name = source if isinstance(source, str) and len(source) < 300 else getattr(source, "name", "the bytes")
        raise PictureError(error.code, error.what.replace("the bytes", name, 1), hint=error.hint) from None
    return data, SUFFIX[sniff(data) or "PNG"]


def pair_of(sample: Sample) -> Pair | None:
    """The row as a pair; None for one that is more than that."""
    messages = sample.conversation.messages
    if (
        not 1 <= len(messages) <= 2
        or messages[0].role != "user"
        or (len(messages) == 2 and messages[1].role != "assistant")
    ):
        return None
    kinds = [type(part) for part in messages[0].parts]
    pictures = tuple(part.source for part in messages[0].parts if isinstance(part, ImagePart))
    words = [part for part in messages[0].parts if isinstance(part, TextPart)]
    in_order = kinds == [ImagePart] * len(pictures) + [TextPart] * len(words)
    if (
        not pictures
        or not in_order
        or (len(messages) == 2 and any(not isinstance(p, TextPart) for p in messages[1].parts))
    ):
        return None
    reply = messages[1].text if len(messages) == 2 else None
    return Pair(pictures=pictures, question=messages[0].text, reply=reply)


def unfit(sample: Sample, why: str, to: str) -> DataError:
    """A row that a format can't hold."""
    return DataError("convert_unfit", f"{sample.place}: {why}, which {to} can't hold", hint="--to messages")


def plain(value: Any, what: str) -> Any:
    """A value as JSON holds it.

    Raises:
        DataError: something that JSON doesn't have.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False, default=_listed))
    except (TypeError, ValueError) as error:
        raise DataError("convert_unfit", f"{what}: an annotation can't be written as JSON: {error}") from None


def _listed(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"a {type(value).__name__}")


def text_with_slots(message: Message, sample: Sample, to: str) -> str:
    """A message as one text with `<image>` where a picture stands, as `slots.Slots` reads it back.

    Raises:
        DataError: the text itself says `<image>`, or a part is neither text nor picture.
    """
    text, last = "", None
    for part in message.parts:
        if isinstance(part, ImagePart):
            text += ("\n" if isinstance(last, TextPart) else "") + "<image>"
        elif isinstance(part, TextPart):
            if "<image>" in part.text or "<video>" in part.text:
                raise unfit(sample, "a text that says <image> itself", to)
            text += ("\n" if isinstance(last, ImagePart) else "") + part.text
        else:
            raise unfit(sample, "a video", to)
        last = part
    return text
