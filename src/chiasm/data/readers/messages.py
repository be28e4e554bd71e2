"""`messages` as chat APIs and trainers write them: roles, and content that is text or a list of parts.

A picture stands in its part (`image`, `path`, `url`, `image_url`), or the part is an empty slot and the pictures are
listed in `images` beside the messages, or the text says `<image>`. In a tar sample a part names a member (`0.jpg`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.messages import Conversation, ImagePart, Message, Part, TextPart, VideoPart, parse_conversation
from chiasm.data.formats import Reading, Shape, annotations_of
from chiasm.data.readers.conversations import listed
from chiasm.data.rows import Content
from chiasm.data.slots import Slots

_LISTS = ("images", "image", "videos", "video")


def _fits(record: Mapping[str, Any]) -> bool:
    turns = record.get("messages")
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and "role" in turns[0]


def _read(record: Mapping[str, Any], reading: Reading) -> Content:
    turns = record["messages"]
    if not isinstance(turns, list):
        raise DataError("row_malformed", f"the row's messages are a {type(turns).__name__}, not a list")
    beside = {
        "image": [reading.find(each) for key in ("images", "image") for each in listed(record.get(key))],
        "video": [reading.find(each) for key in ("videos", "video") for each in listed(record.get(key))],
    }
    empty = {kind: sum(_is_slot(part, kind) for turn in turns for part in _parts(turn)) for kind in beside}
    filled = {kind: iter(sources) for kind, sources in beside.items()}
    for kind, count in empty.items():
        if count and count != len(beside[kind]):
            raise DataError("image_count", f"the row has {len(beside[kind])} {kind}s and {count} {kind} slots")
    prepared = [_prepared(turn, filled, empty) for turn in turns]
    conversation = parse_conversation(prepared)
    slots = Slots(*(beside[kind] if not empty[kind] else () for kind in ("image", "video")))
    messages = []
    for message in conversation.messages:
        parts: list[Part] = []
        for part in message.parts:
            if isinstance(part, ImagePart):
                parts.append(ImagePart(part.source if empty["image"] else reading.find(part.source)))
            elif isinstance(part, VideoPart) and isinstance(part.source, str) and not empty["video"]:
                parts.append(VideoPart(reading.find(part.source), part.fps))
            elif isinstance(part, TextPart) and (beside["image"] or beside["video"]):
                parts += slots.parts(part.text)
            else:
                parts.append(part)
        messages.append(Message(message.role, tuple(parts)))
    slots.check()
    return Content(
        conversation=Conversation(tuple(messages)),
        captions=tuple(str(each) for each in listed(record.get("captions"))),
        annotations=annotations_of(record, (*_LISTS, "messages", "captions")),
    )


def _parts(turn: Any) -> list[Any]:
    content = turn.get("content") if isinstance(turn, Mapping) else None
    return content if isinstance(content, list) else []


def _is_slot(part: Any, kind: str) -> bool:
    """A part that says picture, and no more: its other names are missing or null."""
    return (
        isinstance(part, Mapping)
        and part.get("type") == kind
        and not any(part.get(name) for name in (kind, "path", "url", "base64", "bytes"))
    )


def _prepared(turn: Any, filled: Mapping[str, Any], empty: Mapping[str, int]) -> Any:
    """The turn with its slots filled, and with pictures as Parquet holds them (`bytes` and `path`) unpacked."""
    if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), list):
        return turn
    parts = []
    for part in turn["content"]:
        kind = next((kind for kind in ("image", "video") if _is_slot(part, kind)), None)
        parts.append({"type": kind, kind: next(filled[kind])} if kind and empty[kind] else part)
    return {**turn, "content": parts}


READERS = (Shape(name="messages", fits=_fits, read=_read),)
