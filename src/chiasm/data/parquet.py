"""Parquet files as records. Rows come by row group; the last few groups read stay in memory."""

from __future__ import annotations

import bisect
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.samples import Place
from chiasm.data import stamps

_GROUPS_KEPT = 2


class Parquet:
    """Records of one Parquet file.

    Args:
        path: the file.

    Raises:
        DataError: it is missing, cut or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = self._open()
        groups = file.metadata.num_row_groups
        self._starts = [0]
        for group in range(groups):
            self._starts.append(self._starts[-1] + file.metadata.row_group(group).num_rows)
        self.columns = tuple(file.schema_arrow.names)
        self.digest = stamps.file_digest(path)
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._file: Any = file
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """Open files and read groups stay with their process."""
        return {**self.__dict__, "_file": None, "_kept": OrderedDict()}

    def __len__(self) -> int:
        return self._starts[-1]

    def place(self, index: int) -> Place:
        """Where record `index` stands: its number from 0; Parquet rows have no byte of their own."""
        return Place(str(self.path), index)

    def record(self, index: int) -> Mapping[str, Any]:
        """Record `index`."""
        group = bisect.bisect_right(self._starts, index) - 1
        return self._group(group).slice(index - self._starts[group], 1).to_pylist()[0]

    def _group(self, group: int) -> Any:
        if group in self._kept:
            self._kept.move_to_end(group)
            return self._kept[group]
        import pyarrow

        if self._file is None or self._process != os.getpid():  # a fork opens the file anew
            self._file, self._process = self._open(), os.getpid()
        try:
            table = self._file.read_row_group(group, use_threads=False)
        except (pyarrow.ArrowException, OSError) as error:
            what = f"{self.path}, row group {group} can't be read: {str(error).splitlines()[0][:160]}"
            raise DataError("parquet_damaged", what) from None
        self._kept[group] = table
        while len(self._kept) > _GROUPS_KEPT:
            self._kept.popitem(last=False)
        return table

    def _open(self) -> Any:
        import pyarrow
        from pyarrow import parquet

        try:
            return parquet.ParquetFile(self.path)
        except FileNotFoundError:
            raise DataError("data_missing", f"{self.path} does not exist") from None
        except (pyarrow.ArrowException, OSError) as error:
            what = f"{self.path} can't be read: {str(error).splitlines()[0][:160]}"
            raise DataError("parquet_damaged", what, hint="copy it again") from None
