"""Files that hold one record after another, with every record one read away: JSON lines, JSON lists, CSV and TSV.

The byte range of every record is found once and kept in the cache. A record that can't be parsed is an error when it
is read, not before: the rows around it stay usable. Parquet has a file of its own, `parquet`.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from chiasm.core.errors import DataError
from chiasm.core.samples import Place
from chiasm.data import stamps
from chiasm.data.strict_json import decode, parse_json

RECORD_LIMIT = 64 * 2**20  # bytes of one record
_WHOLE_LIMIT = 4 * 2**30  # bytes of a JSON list, which is parsed once from end to end
_CHARACTERS = 2**26
csv.field_size_limit(_CHARACTERS)  # pictures stand in tables as base64; the module's default is 128 KiB a field


class Records(Protocol):
    """Records by number."""

    path: Path
    digest: str

    def __len__(self) -> int: ...

    def place(self, index: int) -> Place:
        """Where record `index` stands."""

    def record(self, index: int) -> Mapping[str, Any]:
        """Record `index`; raises a `DataError` for one that can't be parsed."""


class _Ranges:
    """Records at byte ranges of a file."""

    kind: str

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            state = stamps.file_state(path)
            stored = stamps.load_arrays(self.kind, state)
            if stored is None or set(stored) != {"ranges", "digest"}:
                digest = np.frombuffer(stamps.file_digest(path).encode(), np.uint8)
                ranges = np.array(list(self._find()), np.int64).reshape(-1, 2)
                stored = {"ranges": ranges, "digest": digest}
                stamps.keep_arrays(self.kind, state, stored)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise DataError("data_missing", f"{path} can't be opened: {reason}") from None
        self._ranges = stored["ranges"]
        self.digest = stored["digest"].tobytes().decode()

    def _find(self) -> Iterator[tuple[int, int]]:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._ranges)

    def place(self, index: int) -> Place:
        """Where record `index` stands: its number from 0 and the byte it begins at."""
        return Place(str(self.path), index, int(self._ranges[index, 0]))

    def _bytes(self, index: int) -> bytes:
        start, stop = self._ranges[index].tolist()
        if stop - start > RECORD_LIMIT:
            raise DataError("row_too_large", f"the row has {stop - start:,} bytes, the limit is {RECORD_LIMIT:,}")
        handle = os.open(self.path, os.O_RDONLY)
        try:
            data = os.pread(handle, stop - start, start)
        finally:
            os.close(handle)
        if len(data) < stop - start:
            raise DataError("data_changed", f"the row had {stop - start:,} bytes when indexed, now {len(data):,}")
        return data


class JsonLines(_Ranges):
    """One JSON object a line; empty lines are no records."""

    kind = "lines"

    def _find(self) -> Iterator[tuple[int, int]]:
        yield from _lines(self.path)

    def record(self, index: int) -> Mapping[str, Any]:
        """Record `index`."""
        return _mapping(parse_json(self._bytes(index), "the row"))


class JsonList(_Ranges):
    """A JSON list of objects, or an object that holds one such list under `data`, `rows`, `samples` or `examples`."""

    kind = "list"

    def _find(self) -> Iterator[tuple[int, int]]:
        if self.path.stat().st_size > _WHOLE_LIMIT:
            what = f"{self.path} is one JSON list of {self.path.stat().st_size:,} bytes, the limit is {_WHOLE_LIMIT:,}"
            raise DataError("json_too_large", what, hint="write one object a line (.jsonl)")
        text = decode(self.path.read_bytes(), str(self.path))
        skipped = 3 if self.path.open("rb").read(3) == b"\xef\xbb\xbf" else 0
        yield from _elements(text, skipped, self.path)

    def record(self, index: int) -> Mapping[str, Any]:
        """Record `index`."""
        return _mapping(parse_json(self._bytes(index), "the row"))


class Table(_Ranges):
    """CSV or TSV with a header line; quoted fields may hold line breaks. Values are texts.

    Args:
        path: the file.
        delimiter: what stands between fields.
    """

    def __init__(self, path: Path, delimiter: str = ",") -> None:
        self.delimiter = delimiter
        self.kind = "tsv" if delimiter == "\t" else "csv"
        super().__init__(path)
        if not len(self._ranges):
            raise DataError("data_empty", f"{path} holds no header line")
        self.columns = tuple(self._fields(0))
        if len(set(self.columns)) < len(self.columns):
            twice = next(name for name in self.columns if self.columns.count(name) > 1)
            raise DataError("columns_ambiguous", f"{path} has {self.columns.count(twice)} columns called {twice!r}")
        self._ranges = self._ranges[1:]

    def _find(self) -> Iterator[tuple[int, int]]:
        position, consumed = 0, 0

        def lines() -> Iterator[str]:
            nonlocal consumed
            with open(self.path, "rb") as file:
                for line in file:
                    consumed += len(line)
                    yield line.decode("utf-8", "surrogateescape")

        try:
            for fields in csv.reader(lines(), delimiter=self.delimiter):
                if fields:
                    yield position, consumed
                position = consumed
        except csv.Error as error:
            raise DataError("table_malformed", f"{self.path}, byte {position:,}: {error}") from None

    def _fields(self, index: int) -> list[str]:
        text = decode(self._bytes(index), "the row")
        try:
            return next(csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter, strict=True), [])
        except csv.Error as error:
            if "unexpected end of data" in str(error):  # all rows to the end of the file stand in this field
                what = f"a quoted field is never closed; {text.count(chr(10)):,} line breaks follow in it"
                raise DataError("row_malformed", what, hint="close it, or double the quotes inside it") from None
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter), [])

    def record(self, index: int) -> Mapping[str, Any]:
        """Record `index`."""
        fields = self._fields(index)
        if len(fields) != len(self.columns):
            raise DataError(
                "row_malformed",
                f"the row has {len(fields)} fields, the header {len(self.columns)}",
                hint="quote commas",
            )
        return dict(zip(self.columns, fields, strict=True))


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError("row_malformed", f"the row is a {type(value).__name__}, not an object")
    return value


def _lines(path: Path) -> Iterator[tuple[int, int]]:
    """Byte ranges of the lines that hold anything; a line without end takes no more memory than the limit."""
    with open(path, "rb") as file:
        start = position = 3 if file.read(3) == b"\xef\xbb\xbf" else 0
        file.seek(start)
        holds = False
        while piece := file.readline(RECORD_LIMIT):
            position += len(piece)
            holds = holds or bool(piece.strip())
            if piece.endswith(b"\n"):
                if holds:
                    yield start, position - 1
                start, holds = position, False
        if holds:
            yield start, position


def _elements(text: str, skipped: int, path: Path) -> Iterator[tuple[int, int]]:
    """Byte ranges of the elements of the list, parsed once from end to end."""
    position = _list_start(text, path)
    decoder, ascii_only = json.JSONDecoder(), text.isascii()
    place, at = position, skipped + len(text[:position].encode())
    first = True
    while True:
        position = _skip_space(text, position)
        if text[position : position + 1] == "]" and first:
            return
        try:
            _, stop = decoder.raw_decode(text, position)
        except RecursionError:
            raise DataError("json_too_deep", f"{path}, character {position:,} is nested too deeply") from None
        except ValueError as error:
            raise DataError("json_malformed", f"{path} is not JSON: {str(error)[:160]}") from None
        start = at + (position - place if ascii_only else len(text[place:position].encode()))
        length = stop - position if ascii_only else len(text[position:stop].encode())
        yield start, start + length
        place, at, first = stop, start + length, False
        position = _skip_space(text, stop)
        if text[position : position + 1] == "]":
            return
        if text[position : position + 1] != ",":
            where = f"character {position:,} of {len(text):,}"
            raise DataError("json_malformed", f"{path} is cut or damaged at {where}: a comma or ] is missing")
        position += 1


def _list_start(text: str, path: Path) -> int:
    """The position after the opening bracket."""
    position = _skip_space(text, 0)
    if text[position : position + 1] == "[":
        return position + 1
    decoder = json.JSONDecoder()
    if text[position : position + 1] == "{":
        position += 1
        while text[(position := _skip_space(text, position)) : position + 1] == '"':
            try:
                name, position = decoder.raw_decode(text, position)
                position = _skip_space(text, position) + 1  # the colon
                position = _skip_space(text, position)
                if name in ("data", "rows", "samples", "examples") and text[position : position + 1] == "[":
                    return position + 1
                _, position = decoder.raw_decode(text, position)
            except (ValueError, RecursionError) as error:
                raise DataError("json_malformed", f"{path} is not JSON: {str(error)[:160]}") from None
            position = _skip_space(text, position) + 1  # the comma
    raise DataError("format_unknown", f"{path} holds no list of rows", hint="a JSON list, or one object a line")


def _skip_space(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\n", "\r", "\t") and position < len(text):
        position += 1
    return position
