"""Texts with `<image>` and `<video>` in them, and the pictures that go there; the counts must agree."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.messages import ImagePart, Part, TextPart, VideoPart

_SLOT = re.compile(r"\n?(<image>|<video>)\n?")


class Slots:
    """Hands the pictures of a row to the slots of its texts, in order.

    Args:
        pictures: sources of `ImagePart`.
        videos: sources of `VideoPart`.
    """

    def __init__(self, pictures: Sequence[Any], videos: Sequence[Any] = ()) -> None:
        self._sources = {"image": list(pictures), "video": list(videos)}
        self._used = {"image": 0, "video": 0}

    def parts(self, text: str) -> tuple[Part, ...]:
        """The text cut at its slots, each replaced by the next picture or video; one line break beside a slot goes.

        A slot beyond the last picture is counted and left out; `check` then fails.
        """
        parts: list[Part] = []
        position = 0
        for match in _SLOT.finditer(text):
            if before := text[position : match.start()]:
                parts.append(TextPart(before))
            position = match.end()
            kind = match.group(1)[1:-1]
            number = self._used[kind]
            self._used[kind] += 1
            if number < len(self._sources[kind]):
                source = self._sources[kind][number]
                parts.append(ImagePart(source) if kind == "image" else VideoPart(source))
        if rest := text[position:]:
            parts.append(TextPart(rest))
        return tuple(parts)

    def check(self) -> None:
        """Refuse a row with more or fewer pictures than slots.

        Raises:
            DataError: image_count, with both numbers.
        """
        for kind, word in (("image", "pictures"), ("video", "videos")):
            given, slots = len(self._sources[kind]), self._used[kind]
            if given != slots:
                raise DataError("image_count", f"the row has {given} {word} and {slots} <{kind}> slots in its texts")
