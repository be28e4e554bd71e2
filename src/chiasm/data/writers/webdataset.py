"""Tar shards that the `webdataset` package reads: `<number>.jpg` with `<number>.txt`, or with a `messages` record."""

from __future__ import annotations

import io
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiasm.core.messages import ImagePart, TextPart
from chiasm.core.samples import Sample
from chiasm.data.writing import Writer, pair_of, picture_bytes, plain, unfit

ROWS = 10_000  # of a shard


@dataclass(slots=True)
class ShardWriter(Writer):
    """Shards of up to `ROWS` rows; equal rows give equal bytes."""

    rows: int = ROWS
    _tar: tarfile.TarFile | None = None
    _file: Any = None

    def add(self, sample: Sample, number: int) -> None:
        """Write one row."""
        if self._tar is None or number % self.rows == 0:
            self._finish()
            self._file = open(self.folder / f"shard-{number // self.rows:06d}.tar", "wb")  # noqa: SIM115
            self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        key = f"{number:09d}"
        pair = pair_of(sample)
        if pair is not None and len(pair.pictures) == 1 and not pair.question:
            data, suffix = picture_bytes(pair.pictures[0])
            self._member(f"{key}.{suffix}", data)
            if pair.reply is not None:
                self._member(f"{key}.txt", pair.reply.encode())
            if (
                sample.captions in ((), (pair.reply,))
                and not sample.annotations
                and pair.reply == (pair.reply or "").strip()
            ):
                return
            names = iter([f"{key}.{suffix}".partition(".")[2]])
        else:
            names = iter(self._pictures(sample, key))
        self._member(f"{key}.json", json.dumps(record(sample, names, "webdataset"), ensure_ascii=False).encode())

    def _pictures(self, sample: Sample, key: str) -> list[str]:
        names = []
        for number, part in enumerate(sample.conversation.images()):
            data, suffix = picture_bytes(part.source)
            names.append(f"{number}.{suffix}")
            self._member(f"{key}.{names[-1]}", data)
        return names

    def _member(self, name: str, data: bytes) -> None:
        assert self._tar is not None
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))
        self.pictures += not name.endswith((".txt", ".json"))

    def _finish(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._tar = None

    def close(self) -> None:
        """Finish the last shard."""
        self._finish()


def record(sample: Sample, names: Any, to: str) -> dict[str, Any]:
    """The row as a `messages` record; `names` gives the name of each picture in turn."""
    messages = []
    for message in sample.conversation.messages:
        parts: list[dict[str, Any]] = []
        for part in message.parts:
            if isinstance(part, TextPart):
                parts.append({"type": "text", "text": part.text})
            elif isinstance(part, ImagePart):
                parts.append({"type": "image", "path": next(names)})
            else:
                raise unfit(sample, "a video", to)
        messages.append({"role": message.role, "content": parts})
    row: dict[str, Any] = {"messages": messages}
    if sample.captions:
        row["captions"] = list(sample.captions)
    return row | {"annotations": plain(dict(sample.annotations), str(sample.place))} if sample.annotations else row


def shards(folder: Path) -> ShardWriter:
    """A writer into `folder`."""
    return ShardWriter(folder)


WRITERS = {"webdataset": shards}
