"""From any data set to a folder in a given format, whole or not at all."""

from __future__ import annotations

import errno
import importlib
import os
import pkgutil
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from chiasm.core.errors import ChiasmError, DataError
from chiasm.core.files import sync
from chiasm.core.samples import Dataset
from chiasm.data.rows import Fault, place_of
from chiasm.data.writing import Writer

_SKIP = "--skip-bad, which leaves it out and says so"


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """What was written.

    Attributes:
        rows, pictures: how many.
        left_out: what the format has no room for: name → rows.
        skipped: rows that couldn't be read, and were left out because the caller said so.
    """

    rows: int
    pictures: int
    left_out: dict[str, int] = field(default_factory=dict)
    skipped: tuple[Fault, ...] = ()


@cache
def writers() -> dict[str, Callable[[Path], Writer]]:
    """Every target by name."""
    package = importlib.import_module("chiasm.data.writers")
    found: dict[str, Callable[[Path], Writer]] = {}
    for module in pkgutil.iter_modules(package.__path__):
        found |= importlib.import_module(f"chiasm.data.writers.{module.name}").WRITERS
    return dict(sorted(found.items()))


def convert(
    dataset: Dataset,
    target: Path,
    to: str,
    *,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
    beside: Callable[[Path], None] | None = None,
) -> Converted:
    """Write a data set in another format.

    Args:
        dataset: the rows.
        target: a folder that doesn't exist yet; it appears at the end, whole, or not at all.
        to: a name of `writers()`.
        skip_bad: leave rows out that can't be read, instead of stopping at the first.
        progress: called with (rows done, all rows) now and then.
        beside: called with the folder before it appears, to write what goes with the data.

    Returns:
        What was written, and what was not.

    Raises:
        DataError: no such format; the target exists; a row that can't be read, or that the format can't hold.
    """
    if to not in writers():
        raise DataError("format_unknown", f"no format {to!r} can be written; there are {', '.join(writers())}")
    if os.path.lexists(target):
        raise DataError("out_exists", f"{target} is there already", hint="another name, or remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        done = _write(dataset, writers()[to](building), skip_bad, progress)
        if beside is not None:
            beside(building)
        building.chmod(0o755)
        os.sync()  # pictures are many small files: one wait for all of them
        _sync_folders(building)
        if os.path.lexists(target):
            raise DataError("out_exists", f"{target} appeared meanwhile", hint="another name")
        building.rename(target)
        sync(target.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError("disk_full", f"{target.parent} has no room for {target.name}; nothing was kept") from None
        raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return done


def _write(dataset: Dataset, writer: Writer, skip_bad: bool, progress: Callable[[int, int], None] | None) -> Converted:
    skipped: list[Fault] = list(getattr(dataset, "faults", ()))
    if skipped and not skip_bad:
        first = skipped[0]
        raise DataError(first.code, f"{first.place}: {first.reason}", hint=_SKIP)
    number = 0
    for index in range(len(dataset)):
        try:
            writer.add(dataset[index], number)
            number += 1
        except ChiasmError as error:
            place = place_of(dataset, index)
            if not skip_bad or error.code == "convert_unfit":
                what = error.what if str(place) in error.what else f"{place}: {error.what}"
                hint = error.hint if error.code == "convert_unfit" else _SKIP
                raise type(error)(error.code, what, hint=hint) from None
            skipped.append(Fault(place, error.code, error.what))
        if progress is not None and (index % 256 == 255 or index + 1 == len(dataset)):
            progress(index + 1, len(dataset))
    if not number:
        raise DataError("data_empty", f"{dataset.name} has 0 rows that can be read")
    writer.close()
    left_out = {name: rows for name, rows in writer.left_out.items() if rows}
    return Converted(rows=number, pictures=writer.pictures, left_out=left_out, skipped=tuple(skipped))


def _sync_folders(folder: Path) -> None:
    for at, _, _ in os.walk(folder):
        sync(Path(at))


def describe(converted: Converted) -> dict[str, Any]:
    """As `chiasm data convert --json` prints it."""
    skipped = [
        {"source": f.place.source, "row": f.place.row, "offset": f.place.offset, "code": f.code, "reason": f.reason}
        for f in converted.skipped
    ]
    return {"rows": converted.rows, "pictures": converted.pictures, "left_out": converted.left_out, "skipped": skipped}
