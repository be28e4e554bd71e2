"""LLaVA and ShareGPT conversations: `conversations` with `from` and `value`, pictures in `image` or `images`.

Pictures go where the texts say `<image>`. LLaVA-Instruct writes `human` and `gpt`, ShareGPT's descendants also
`user`, `assistant`, `system`, `tool`, and may call the turns `role` and `content`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.messages import Conversation, Message
from chiasm.data.formats import Reading, Shape, annotations_of
from chiasm.data.rows import Content
from chiasm.data.slots import Slots

_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "bing": "assistant", "bard": "assistant", "model": "assistant", "system": "system", "tool": "tool",
    "observation": "tool", "function_response": "tool",
}  # fmt: skip
_OWN = ("conversations", "conversation", "image", "images", "video", "videos", "system", "captions")


def listed(value: Any) -> list[Any]:
    """One value or a list of them, None being none."""
    if value is None or (isinstance(value, str) and not value):
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _turns(record: Mapping[str, Any]) -> Any:
    return record.get("conversations") or record.get("conversation")


def _fits(record: Mapping[str, Any]) -> bool:
    turns = _turns(record)
    return (
        isinstance(turns, list)
        and bool(turns)
        and isinstance(turns[0], dict)
        and ("from" in turns[0] or "role" in turns[0])
        and ("value" in turns[0] or "content" in turns[0])
    )


def _read(record: Mapping[str, Any], reading: Reading) -> Content:
    pictures = [reading.find(each) for key in ("image", "images") for each in listed(record.get(key))]
    videos = [reading.find(each) for key in ("video", "videos") for each in listed(record.get(key))]
    slots = Slots(pictures, videos)
    messages = []
    turns = _turns(record)
    if not isinstance(turns, list):
        raise DataError("row_malformed", f"the row's conversations are a {type(turns).__name__}, not a list")
    if system := record.get("system"):
        turns = [{"from": "system", "value": system}, *turns]
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise DataError("row_malformed", f"turn {number} is a {type(turn).__name__}, not an object")
        role, text = turn.get("from") or turn.get("role"), turn.get("value", turn.get("content"))
        if not isinstance(text, str):
            raise DataError("row_malformed", f"turn {number} has a {type(text).__name__} as its text")
        if role not in _ROLES:
            raise DataError("row_malformed", f"turn {number} is from {role!r}; known are {', '.join(_ROLES)}")
        messages.append(Message(_ROLES[role], slots.parts(text)))
    slots.check()
    return Content(
        conversation=Conversation(tuple(messages)),
        captions=tuple(str(each) for each in listed(record.get("captions"))),
        annotations=annotations_of(record, _OWN),
    )


READERS = (Shape(name="conversations", fits=_fits, read=_read),)
