"""Skip lists: the rows that `chiasm data check` found bad, bound to the data set they were found in."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.files import replacing
from chiasm.core.samples import Dataset
from chiasm.data.rows import Chosen
from chiasm.data.strict_json import parse_json

_KIND = "chiasm skip list"


def write_skips(path: Path, dataset: Dataset, bad: Iterable[dict[str, Any]]) -> None:
    """Write a skip list, whole or not at all: a line that names the data set, then one line a bad row.

    Args:
        path: the file.
        dataset: the data that was checked.
        bad: mappings with `index` (None for what is no row), `source`, `row`, `offset`, `code` and `reason`.
    """
    head = {"kind": _KIND, "name": dataset.name, "fingerprint": dataset.fingerprint, "rows": len(dataset)}
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        for line in (head, *bad):
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def without_skipped(dataset: Dataset, path: Path) -> Dataset:
    """The data set without the rows of a skip list.

    Raises:
        DataError: no skip list, or one that was written for other data.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError("data_missing", f"{path} can't be opened: {(error.strerror or str(error)).lower()}") from None
    entries = [parse_json(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    head = entries[0] if entries else {}
    if not isinstance(head, dict) or head.get("kind") != _KIND:
        raise DataError(
            "skip_list_malformed", f"{path} is no skip list", hint="chiasm data check DATA --skip-list FILE"
        )
    if head.get("fingerprint") != dataset.fingerprint:
        what = f"{path} was written for {head.get('rows')} rows of {head.get('name')}; this is {dataset.name}, "
        what += f"{len(dataset)} rows, with another fingerprint"
        raise DataError("skip_list_stale", what, hint="chiasm data check DATA --skip-list FILE")
    skipped = {entry.get("index") for entry in entries[1:]}
    # the list names what was no row, too: somebody has seen it
    return Chosen(dataset, [index for index in range(len(dataset)) if index not in skipped], faults=())
