"""CSV and TSV with pictures in `images/`, and Parquet with the pictures inside."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any

from chiasm.core.samples import Sample
from chiasm.data.writers.webdataset import record
from chiasm.data.writing import Writer, pair_of, picture_bytes, unfit

_GROUP = 256  # rows of a Parquet row group: what is read to reach one of them


@dataclass(slots=True)
class TableWriter(Writer):
    """`image,caption` or `image,question,answer`, decided by the first row."""

    delimiter: str = ","
    _file: IO[str] | None = None
    _columns: tuple[str, ...] = ()

    def add(self, sample: Sample, number: int) -> None:
        """Write one row."""
        to = "tsv" if self.delimiter == "\t" else "csv"
        pair = pair_of(sample)
        if pair is None or len(pair.pictures) != 1 or pair.reply is None:
            raise unfit(sample, "not one picture with a caption, or with a question and an answer", to)
        columns = ("image", "question", "answer") if pair.question else ("image", "caption")
        if self._file is None:
            self._columns = columns
            self._file = open(self.folder / f"data.{to}", "w", encoding="utf-8", newline="")  # noqa: SIM115
            csv.writer(self._file, delimiter=self.delimiter).writerow(columns)
        if columns != self._columns:
            raise unfit(sample, f"{' and '.join(columns[1:])} where the first row has {self._columns[1]}", to)
        path = self.store(pair.pictures[0], f"{number:09d}")
        words = [pair.question, pair.reply] if pair.question else [pair.reply]
        csv.writer(self._file, delimiter=self.delimiter).writerow([path, *words])
        self.left_out["captions"] += len(sample.captions) > 1
        self.left_out["annotations"] += bool(set(sample.annotations) - {"id"})

    def close(self) -> None:
        """End the file."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


@dataclass(slots=True)
class ParquetWriter(Writer):
    """`messages`, with `images` as bytes in the order of their slots, `captions`, and annotations as JSON."""

    _file: Any = None
    _rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, sample: Sample, number: int) -> None:
        """Write one row."""
        encoded = [picture_bytes(part.source) for part in sample.conversation.images()]
        row = record(sample, iter([None] * len(encoded)), "parquet")
        for message in row["messages"]:
            message["content"] = [{"type": p["type"], "text": p.get("text")} for p in message["content"]]
        row["images"] = [{"bytes": data, "path": f"{number:09d}_{i}.{end}"} for i, (data, end) in enumerate(encoded)]
        row["annotations"] = json.dumps(row["annotations"], ensure_ascii=False) if "annotations" in row else None
        row.setdefault("captions", [])
        self._rows.append(row)
        self.pictures += len(encoded)
        if len(self._rows) == _GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        part = pa.struct([("type", pa.string()), ("text", pa.string())])
        message = pa.struct([("role", pa.string()), ("content", pa.list_(part))])
        schema = pa.schema(
            [
                ("messages", pa.list_(message)),
                ("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
                ("captions", pa.list_(pa.string())),
                ("annotations", pa.string()),
            ]
        )
        if self._file is None:
            self._file = parquet.ParquetWriter(self.folder / "data.parquet", schema)
        self._file.write_table(pa.Table.from_pylist(self._rows, schema))
        self._rows = []

    def close(self) -> None:
        """Write the last group and end the file."""
        if self._rows or self._file is None:
            self._flush()
        self._file.close()


WRITERS = {"csv": TableWriter, "tsv": partial(TableWriter, delimiter="\t"), "parquet": ParquetWriter}
