"""JSON targets with pictures in `images/`: `llava` (one list), `messages` and pairs (one object a line)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import IO, Any

from chiasm.core.samples import Sample
from chiasm.data.writers.webdataset import record
from chiasm.data.writing import Writer, pair_of, plain, text_with_slots, unfit

_FROM = {"user": "human", "assistant": "gpt", "system": "system", "tool": "tool"}


@dataclass(slots=True)
class LinesWriter(Writer):
    """Writes a row as it comes, as one line of JSON."""

    file_name: str = "data.jsonl"
    opening: str = ""
    between: str = "\n"
    closing: str = "\n"
    _file: IO[str] | None = None

    def row(self, sample: Sample, number: int) -> dict[str, Any]:
        """The row as JSON."""
        raise NotImplementedError

    def add(self, sample: Sample, number: int) -> None:
        """Write one row."""
        line = json.dumps(self.row(sample, number), ensure_ascii=False, allow_nan=False)
        first = self._file is None
        if self._file is None:
            self._file = open(self.folder / self.file_name, "w", encoding="utf-8", newline="")  # noqa: SIM115
        self._file.write((self.opening if first else self.between) + line)

    def close(self) -> None:
        """End the file."""
        if self._file is not None:
            self._file.write(self.closing)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def paths(self, sample: Sample, number: int) -> list[str]:
        """The row's pictures, stored."""
        sources = [part.source for part in sample.conversation.images()]
        stems = [f"{number:09d}" + (f"_{i}" if i else "") for i in range(len(sources))]
        return [self.store(source, stem) for source, stem in zip(sources, stems, strict=True)]


@dataclass(slots=True)
class MessagesWriter(LinesWriter):
    """`messages` with pictures as paths."""

    def row(self, sample: Sample, number: int) -> dict[str, Any]:
        """The row as JSON."""
        return record(sample, iter(self.paths(sample, number)), "messages")


@dataclass(slots=True)
class ConversationsWriter(LinesWriter):
    """LLaVA's list."""

    file_name: str = "data.json"
    opening: str = "[\n"
    between: str = ",\n"
    closing: str = "\n]\n"

    def row(self, sample: Sample, number: int) -> dict[str, Any]:
        """The row as JSON."""
        turns = [
            {"from": _FROM[message.role], "value": text_with_slots(message, sample, "llava")}
            for message in sample.conversation.messages
        ]
        images = self.paths(sample, number)
        row: dict[str, Any] = {"id": str(number)}
        row |= {"image": images[0]} if len(images) == 1 else {"images": images} if images else {}
        row["conversations"] = turns
        if sample.captions:
            row["captions"] = list(sample.captions)
        if sample.annotations:
            row["annotations"] = plain(dict(sample.annotations), str(sample.place))
        return row


@dataclass(slots=True)
class PairsWriter(LinesWriter):
    """A picture with its captions, or with a question and its answer."""

    _kinds: set[bool] = field(default_factory=set)

    def row(self, sample: Sample, number: int) -> dict[str, Any]:
        """The row as JSON."""
        pair = pair_of(sample)
        if pair is None:
            raise unfit(sample, "more than pictures, a question and a reply", "jsonl")
        paths = self.paths(sample, number)
        row: dict[str, Any] = {"image": paths[0]} if len(paths) == 1 else {"images": paths}
        if pair.question:
            row |= {"question": pair.question} | ({} if pair.reply is None else {"answer": pair.reply})
        elif len(sample.captions) > 1:
            row["captions"] = list(sample.captions)
        elif pair.reply is not None:
            row["caption"] = pair.reply
        self._kinds.add(bool(pair.question))
        if len(self._kinds) > 1:
            raise unfit(sample, "captions and questions in one data set", "jsonl")
        if sample.annotations:
            row["annotations"] = plain(dict(sample.annotations), str(sample.place))
        return row


WRITERS = {"messages": MessagesWriter, "llava": ConversationsWriter, "jsonl": PairsWriter}
