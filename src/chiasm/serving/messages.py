"""A request's messages as a conversation around the pictures that the gate let in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chiasm.core.messages import Conversation, ImagePart, Message, TextPart, VideoPart
from chiasm.serving import schemas


def sources(messages: Sequence[schemas.GivenMessage | schemas.AssistantMessage]) -> list[tuple[str, str]]:
    """Every picture and frame of messages, in reading order: (address, its place in the request)."""
    found = []
    for i, message in enumerate(messages):
        for j, part in enumerate(message.content if isinstance(message.content, list) else ()):
            where = f"messages[{i}].content[{j}]"
            if isinstance(part, schemas.VideoPart):
                found += [(frame, where) for frame in part.video]
            elif not isinstance(part, (schemas.TextPart, schemas.RefusalPart)):
                found.append((part.source, where))
    return found


def conversation(
    given: Sequence[schemas.GivenMessage | schemas.AssistantMessage], pictures: Sequence[Any]
) -> Conversation:
    """The messages around the pictures that the gate let in."""
    left = iter(pictures)

    def typed(part: Any) -> Any:
        if isinstance(part, (schemas.TextPart, schemas.RefusalPart)):
            return TextPart(part.text)
        if isinstance(part, schemas.VideoPart):
            return VideoPart([next(left) for _ in part.video], part.fps)
        return ImagePart(next(left))

    messages = []
    for message in given:
        role = "system" if message.role == "developer" else message.role
        if message.content is None or isinstance(message.content, str):
            messages.append(Message(role, (TextPart(message.content or ""),)))
        else:
            messages.append(Message(role, tuple(typed(part) for part in message.content)))
    return Conversation(tuple(messages))


def length(given: Sequence[schemas.GivenMessage | schemas.AssistantMessage]) -> int:
    """Characters of all texts."""
    count = 0
    for message in given:
        if isinstance(message.content, str):
            count += len(message.content)
        for part in message.content if isinstance(message.content, list) else ():
            count += len(part.text) if isinstance(part, (schemas.TextPart, schemas.RefusalPart)) else 0
    return count
