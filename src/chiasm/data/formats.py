"""How readers describe themselves, and how the right one is found: by looking at the content.

A reader is a file in `readers/` with a `READERS` tuple; nothing else lists it. A `Shape` reads one record of any file
of records (JSON lines, JSON list, CSV, TSV, Parquet, the JSON member of a tar sample). A `Layout` reads files that
only make sense together.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from chiasm.core.errors import DataError
from chiasm.data.pictures import PictureFinder
from chiasm.data.rows import Content, Rows
from chiasm.data.strict_json import parse_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a reader may know beside the record itself.

    Attributes:
        find: turns what a record says of a picture into a source.
        columns: roles that the caller named, such as ``{"caption": "alt"}``: role → column.
    """

    find: PictureFinder
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """One form of a record.

    Attributes:
        name: what people call it.
        fits: whether a record has this form, by its names and types.
        read: the record → what the row holds; raises a `ChiasmError` for one that can't be used.
        check: (first record, columns that the caller named) → raises what is wrong with every row alike.
        general: asked only when no other form fits.
    """

    name: str
    fits: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], Reading], Content]
    check: Callable[[Mapping[str, Any], Mapping[str, str]], None] | None = None
    general: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a caller may say about a data set.

    Attributes:
        images: folder that pictures are looked for in, beside the data's own.
        columns: role → column, for tables whose names can't be guessed.
        wordless: a picture of a folder that has no words, where others have some, is a row and no fault.
    """

    images: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    wordless: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Files that make sense together.

    Attributes:
        name: what people call it.
        fits: whether this path is one; a cheap look at names and first bytes.
        open: (path, options) → rows.
    """

    name: str
    fits: Callable[[Path], bool]
    open: Callable[[Path, Options], Rows]


@cache
def readers() -> tuple[Shape | Layout, ...]:
    """Every reader of `chiasm.data.readers`, by file name."""
    package = importlib.import_module("chiasm.data.readers")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"chiasm.data.readers.{name}") for name in names]
    return tuple(reader for module in modules for reader in getattr(module, "READERS", ()))


def shape_of(record: Mapping[str, Any], where: str, columns: Mapping[str, str] | None = None) -> Shape:
    """The form of a record.

    Args:
        record: the first record of a file.
        where: the file, for messages.
        columns: roles that the caller named; they make the record a table's row.

    Raises:
        DataError: format_unknown or format_ambiguous, with the names that the record has.
    """
    shapes = [reader for reader in readers() if isinstance(reader, Shape)]
    special = [] if columns else [shape for shape in shapes if not shape.general and shape.fits(record)]
    fitting = special or [shape for shape in shapes if shape.general and (columns or shape.fits(record))]
    seen = ", ".join(map(repr, record)) or "none"
    if not fitting:
        hint = "name them: --column image=NAME --column caption=NAME"
        if len(record) == 1 and (mark := next((m for m in ";|\t" if m in next(iter(record))), None)):
            hint = f"its fields seem to stand between {mark!r}: write commas in a .csv, tabs in a .tsv"
        raise DataError("format_unknown", f"{where} has rows of no known form; its columns are {seen}", hint=hint)
    if len(fitting) > 1:
        names = " and as ".join(shape.name for shape in fitting)
        raise DataError("format_ambiguous", f"{where} can be read as {names}; its columns are {seen}")
    return fitting[0]


def annotations_of(record: Mapping[str, Any], own: Collection[str]) -> dict[str, Any]:
    """What a record says beside what its form reads: nulls left out, an object called `annotations` unfolded.

    Args:
        record: the record.
        own: names that the form reads.
    """
    found = {name: value for name, value in record.items() if name not in own and value is not None}
    nested = found.pop("annotations", None)
    if isinstance(nested, str) and nested.lstrip().startswith("{"):
        nested = parse_json(nested, "the row's annotations")
    if isinstance(nested, Mapping):
        return {**found, **nested}
    return found if nested is None else {**found, "annotations": nested}
