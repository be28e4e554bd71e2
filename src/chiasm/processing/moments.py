"""Moments in videos: seconds from the video's start inside, whatever a model writes at the edge.

Read are pairs of times in a reply: `{"start": 3, "end": "00:08.5"}` and its kin, `[3.0, 8.5]`, `3.0 - 8.5 seconds`,
`from 0:03 to 0:08.5`. Ends in the wrong order change places, what reaches beyond the video is clipped and counted, and
a time that no second one belongs to is reported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_TIME = r"(?:\d+:)?\d+:\d+(?:\.\d+)?|\d+(?:\.\d+)?"
_UNIT = r"(?:\s*(?:seconds?|secs?|s)\b)?"
_QUOTE = "[\"'<]?"
_PAIR = re.compile(
    rf"(?<![\d.:])(-?(?:{_TIME})){_UNIT}\s*[\"'>]?\s*(?:,|-|–|—|~|to\b|and\b|until\b|till\b|through\b)"
    rf"\s*(?:[\"']?\w+[\"']?\s*:\s*)?{_QUOTE}(?:at\s+)?\s*(-?(?:{_TIME}))(?![\d:]){_UNIT}",
    re.IGNORECASE,
)
_SINGLE = re.compile(rf"(?<![\w.:])(?:{_TIME})(?![\w:]){_UNIT}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Moments:
    """What was read off a reply.

    Attributes:
        spans: (start, end) in seconds, in the reply's order, each once.
        unread: times that look like a moment's and aren't.
        clipped: how many spans reached beyond the video and were cut.
    """

    spans: Sequence[tuple[float, float]] = field(default=())
    unread: Sequence[str] = field(default=())
    clipped: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SecondsInText:
    """Moments in seconds or clock times, in any of the usual spellings.

    Attributes:
        question: how a query is asked for; `{query}` is replaced.
    """

    question: str

    def read(self, text: str, duration: float) -> Moments:
        """Spans in a reply about a video of `duration` seconds."""
        spans: list[tuple[float, float]] = []
        unread: list[str] = []
        clipped, rest = 0, []
        position = 0
        for pair in _PAIR.finditer(text):
            rest.append(text[position : pair.start()])
            position = pair.end()
            start, end = sorted(_seconds(time) for time in pair.groups())
            inside = max(0.0, start), min(duration, end)
            if inside[0] >= inside[1]:
                unread.append(pair[0].strip())
                continue
            if inside not in spans:
                spans.append(inside)
                clipped += inside != (start, end)
        rest.append(text[position:])
        unread += [single[0].strip() for piece in rest for single in _SINGLE.finditer(piece)]
        return Moments(tuple(spans), tuple(unread), clipped)

    def write(self, spans: Sequence[tuple[float, float]]) -> str:
        """Spans as text."""
        return ", ".join(f"{start:.1f} - {end:.1f} seconds" for start, end in spans)


def _seconds(time: str) -> float:
    """`12.5`, `1:05`, `1:02:03.5` → seconds."""
    sign = -1.0 if time.startswith("-") else 1.0
    total = 0.0
    for part in time.lstrip("-").split(":"):
        total = 60 * total + float(part)
    return sign * total
