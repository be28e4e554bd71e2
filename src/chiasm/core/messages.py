"""Conversations: messages with text, pictures and video inside them, in the HF or the OpenAI spelling.

Pictures live inside messages, never in a parallel list. `parse_conversation` is the only reader, so both
spellings are accepted everywhere and every refusal names the message and the part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chiasm.core.errors import PromptError

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text as its author typed it; it can never become a control token."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """One picture: anything `processing.pictures.read` takes (PIL picture, path, bytes, data URI, array)."""

    source: Any


@dataclass(frozen=True, slots=True)
class VideoPart:
    """One video: a path, or a list of pictures with their frames per second."""

    source: Any
    fps: float | None = None


Part = TextPart | ImagePart | VideoPart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn by `role`."""

    role: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text parts, concatenated."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order."""

    messages: tuple[Message, ...] = field(default=())

    def images(self) -> Iterator[ImagePart]:
        """Every picture, in reading order."""
        return (part for message in self.messages for part in message.parts if isinstance(part, ImagePart))

    def media(self) -> Iterator[ImagePart | VideoPart]:
        """Every picture and video, in reading order."""
        return (part for message in self.messages for part in message.parts if isinstance(part, (ImagePart, VideoPart)))


def parse_conversation(value: Any) -> Conversation:
    """Read one conversation.

    Args:
        value: a `Conversation`; a list of message mappings; one message mapping; or a plain string (a
            user turn).

    Returns:
        The conversation, with every part typed.

    Raises:
        PromptError: an unknown role or part type, an empty conversation, a part without its content; the
            message and part are named by index.
    """
    if isinstance(value, Conversation):
        return value
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if isinstance(value, Mapping):
        value = value.get("messages", [value])
    if not isinstance(value, Sequence) or not value:
        raise PromptError("conversation_empty", f"a conversation needs at least one message, got {_kind(value)}")
    return Conversation(tuple(_parse_message(message, i) for i, message in enumerate(value)))


def _parse_message(message: Any, index: int) -> Message:
    if isinstance(message, Message):
        return message
    if not isinstance(message, Mapping):
        raise PromptError(
            "message_malformed", f"message {index} is {_kind(message)}, not a mapping with role and content"
        )
    role = message.get("role", "user")
    if role not in ROLES:
        raise PromptError("role_unknown", f"message {index} has role {role!r}; known roles are {', '.join(ROLES)}")
    content = message.get("content")
    if isinstance(content, str):
        return Message(role, (TextPart(content),))
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, Sequence):
        raise PromptError(
            "message_malformed", f"message {index} has {_kind(content)} as content, not text or a list of parts"
        )
    return Message(role, tuple(_parse_part(part, index, j) for j, part in enumerate(content)))


def _parse_part(part: Any, message: int, index: int) -> Part:
    where = f"message {message}, part {index}"
    if isinstance(part, (TextPart, ImagePart, VideoPart)):
        return part
    if isinstance(part, str):
        return TextPart(part)
    if not isinstance(part, Mapping):
        raise PromptError("part_malformed", f"{where} is {_kind(part)}, not a mapping with a type")
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        return TextPart(part["text"])
    if kind == "image":
        return ImagePart(_first(part, ("image", "path", "url", "base64"), where))
    if kind == "image_url":
        url = _first(part, ("image_url",), where)
        return ImagePart(_first(url, ("url",), where) if isinstance(url, Mapping) else url)
    if kind == "video":
        return VideoPart(_first(part, ("video", "path", "url"), where), part.get("fps"))
    raise PromptError("part_unknown", f"{where} has type {kind!r}; known types are text, image, image_url, video")


def _first(part: Mapping[str, Any], keys: Sequence[str], where: str) -> Any:
    for key in keys:
        if part.get(key) is not None:
            return part[key]
    raise PromptError("part_empty", f"{where} has none of {', '.join(keys)}")


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
