"""`open_dataset`: from a path, a pattern or a name to rows, by looking at what is there."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.samples import Dataset, Place
from chiasm.data.formats import Layout, Options, Reading, readers, shape_of
from chiasm.data.named import OPENERS, is_named, open_named
from chiasm.data.parquet import Parquet
from chiasm.data.pictures import PictureFinder
from chiasm.data.readers.webdataset import ShardRows
from chiasm.data.records import JsonLines, JsonList, Records, Table
from chiasm.data.rows import Content, Joined, Rows
from chiasm.data.skips import without_skipped
from chiasm.data.stamps import digest_of

_DATA = (".tar", ".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
_LEFT_ALONE = ("dataset_info.json", "dataset_infos.json", "state.json", "metadata.json", "package.json")
_PICKLES = (".p", ".pkl", ".pickle", ".pth", ".pt", ".npy")
_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST_NAMES = 1_000_000
_WEIGHTED = re.compile(r"(\d+(?:\.\d+)?)\*(.+)", re.DOTALL)


def open_dataset(
    spec: str | os.PathLike[str] | Sequence[Any] | Mapping[str, float],
    *,
    images: str | os.PathLike[str] | None = None,
    columns: Mapping[str, str] | None = None,
    skip: str | os.PathLike[str] | None = None,
    wordless: bool = False,
) -> Dataset:
    """Open a data set of any known format.

    Args:
        spec: a file or folder; a pattern with `{000..019}`, `{a,b}`, `*` or `?`; a name such as ``scenes`` or
            ``scenes:split=test``; several of these joined by ``" + "``, each with a weight before it if wanted
            (``"2*a.tar + b.tar"``); a sequence of them; or a mapping from each to its weight.
        images: folder that pictures are looked for in, beside the data's own.
        columns: role → column, for tables whose names can't be guessed: ``{"caption": "alt"}``.
        skip: a skip list that `chiasm data check` wrote for this data; its rows are left out.
        wordless: see `data.formats.Options`.

    Returns:
        Rows by number; `faults` lists what could be told at once to be unusable.

    Raises:
        DataError: nothing there, a format that isn't known or isn't clear, damage that leaves no row reachable.
    """
    folder = None if images is None else Path(images)
    options = Options(images=folder, columns=dict(columns or {}), wordless=wordless)
    dataset = _open(spec, options)
    return dataset if skip is None else without_skipped(dataset, Path(skip))


def _open(spec: Any, options: Options) -> Dataset:
    if isinstance(spec, Mapping):
        return Joined([_open(each, options) for each in spec], [float(weight) for weight in spec.values()])
    if isinstance(spec, (str, os.PathLike)):
        text = os.fspath(spec)
        path = Path(text)
        if path.exists():
            return _open_path(path, options)
        if isinstance(spec, str) and is_named(text) and " + " not in text:
            return open_named(text)
        return _open_text(text, options)
    parts = list(spec)
    return _open(parts[0], options) if len(parts) == 1 else Joined([_open(each, options) for each in parts])


def _open_text(text: str, options: Options) -> Dataset:
    if text.strip().lower().startswith(("pipe:", "http:", "https:", "s3:", "gs:", "hdfs:")):
        scheme = text.strip().partition(":")[0]
        raise DataError("data_remote", f"{scheme}: is not read, and no command is ever run", hint="copy the files here")
    words = [word.strip() for word in text.split(" + ")] if " + " in text else [text]
    weighted = [(_WEIGHTED.fullmatch(word), word) for word in words]
    if len(words) > 1 or (weighted[0][0] and not glob.has_magic(text.partition("*")[0]) and _leads(weighted[0][0])):
        parts = [_open(match.group(2) if match else word, options) for match, word in weighted]
        return Joined(parts, [float(match.group(1)) if match else 1.0 for match, _ in weighted])
    paths = [Path(name) for name in expand(text)]
    if not paths:
        names = ", ".join(sorted(OPENERS))
        raise DataError("data_missing", f"{text} does not exist, and no data set is called so (known: {names})")
    if missing := [path for path in paths if not path.exists()]:
        raise DataError("data_missing", f"{missing[0]} does not exist, one of the {len(paths)} files of {text}")
    if all(_kind(path) == "tar" for path in paths):
        return ShardRows(paths, options)
    return Joined([_open_path(path, options) for path in paths])


def _leads(match: re.Match[str]) -> bool:
    return os.path.exists(match.group(2)) or is_named(match.group(2)) or bool(expand(match.group(2)))


def expand(pattern: str) -> list[str]:
    """The files that a pattern names: braces written out in order, then `*` and `?` matched and sorted.

    Raises:
        DataError: a pattern that names more than a million files.
    """
    names: list[str] = []
    for name in itertools.islice(_unbraced(pattern), _MOST_NAMES + 1):
        names += sorted(glob.glob(name)) if glob.has_magic(name) else ([name] if name != pattern else [])
    if len(names) > _MOST_NAMES:
        raise DataError("data_setting", f"{pattern} names more than {_MOST_NAMES:,} files")
    return names


def _unbraced(pattern: str) -> Iterator[str]:
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    bounds = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", match.group(1))
    if bounds:
        first, last = (int(bound) for bound in bounds.groups())
        width = max(map(len, bounds.groups())) if any(b.startswith("0") for b in bounds.groups()) else 0
        step = 1 if last >= first else -1
        choices: Iterator[str] = (f"{number:0{width}d}" for number in range(first, last + step, step))
    else:
        choices = iter(match.group(1).split(","))
    for choice in choices:
        yield from _unbraced(pattern[: match.start()] + choice + pattern[match.end() :])


# --- one file or folder -------------------------------------------------------------------------------------


def _open_path(path: Path, options: Options) -> Dataset:
    if path.is_dir():
        return _open_folder(path, options)
    kind = _kind(path)
    if kind == "tar":
        return ShardRows([path], options)
    if kind == "pickle":
        raise DataError(
            "pickle_refused",
            f"{path} is pickled, and reading a pickle runs whatever it says",
            hint=f'on a machine that may be lost, python -c "import json, pickle; '
            f"json.dump(pickle.load(open('{path.name}', 'rb')), open('{path.stem}.json', 'w'))\"",
        )
    if layout := _layout(path):
        return _arranged(layout, path, options)
    return RecordRows(_records(path, kind), options)


def _open_folder(path: Path, options: Options) -> Dataset:
    if layout := _layout(path, exclude=("folder of pictures",)):
        return _arranged(layout, path, options)
    found = [
        each
        for folder in (path, path / "annotations", path / "data")
        if folder.is_dir()
        for each in sorted(folder.iterdir())
        if each.suffix.lower() in _DATA and each.name not in _LEFT_ALONE and not each.name.startswith(".")
    ]
    tars = [each for each in found if each.suffix.lower() == ".tar"]
    if tars and len(tars) == len(found):
        return ShardRows(tars, options)
    parquets = [each for each in found if each.suffix.lower() == ".parquet"]
    series = {re.sub(r"-\d+(-of-\d+)?$", "", each.stem) for each in parquets}
    if parquets and len(parquets) == len(found) and len(series) == 1:
        return _open(parquets, options)
    if len(found) == 1:
        return _open_path(found[0], options)
    if found:
        names = ", ".join(each.name for each in found[:8]) + (", …" if len(found) > 8 else "")
        raise DataError(
            "format_ambiguous", f"{path} holds {len(found)} data files: {names}", hint=f"name one: {found[0]}"
        )
    layout = next(each for each in readers() if isinstance(each, Layout) and each.name == "folder of pictures")
    return _arranged(layout, path, options)


def _layout(path: Path, exclude: Sequence[str] = ()) -> Layout | None:
    layouts = [each for each in readers() if isinstance(each, Layout) and each.name not in exclude]
    fitting = [layout for layout in layouts if layout.fits(path)]
    if len(fitting) > 1:
        names = " and as ".join(layout.name for layout in fitting)
        raise DataError("format_ambiguous", f"{path} can be read as {names}")
    return fitting[0] if fitting else None


def _arranged(layout: Layout, path: Path, options: Options) -> Rows:
    try:
        return layout.open(path, options)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__}: {str(error)[:160]}"
        raise DataError("format_unknown", f"{path} begins like {layout.name} but isn't: {reason}") from error


def _kind(path: Path) -> str:
    """What a file is, by its first bytes; the name decides only between texts."""
    suffix = path.suffix.lower()
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise DataError("data_missing", f"{path} can't be opened: {(error.strerror or str(error)).lower()}") from None
    if head[257:262] == b"ustar" or suffix == ".tar" or path.name.lower().endswith((".tar.gz", ".tgz", ".tar.xz")):
        return "tar"
    if head[:4] == b"PAR1" or suffix == ".parquet":
        return "parquet"
    if suffix in _PICKLES or re.match(rb"\x80[\x02-\x05]", head):
        return "pickle"
    if not head.strip():
        raise DataError("data_empty", f"{path} holds {path.stat().st_size} bytes, all blank")
    if b"\0" in head:
        raise DataError("format_unknown", f"{path} begins with {head[:8]!r}, which is no format that is known")
    if suffix in (".csv", ".tsv"):
        return suffix[1:]
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] == b"[":
        return "list"
    if start[:1] == b"{":
        return "lines" if suffix in (".jsonl", ".ndjson") or _first_line_is_whole(path) else "list"
    return "tsv" if start.split(b"\n", 1)[0].count(b"\t") else "csv"


def _first_line_is_whole(path: Path) -> bool:
    with open(path, "rb") as file:
        line = file.readline(2**26)
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    holder = isinstance(value, dict) and any(isinstance(value.get(n), list) for n in ("data", "rows", "samples"))
    return isinstance(value, dict) and not holder


def _records(path: Path, kind: str) -> Records:
    if kind == "parquet":
        return Parquet(path)
    if kind in ("csv", "tsv"):
        return Table(path, "\t" if kind == "tsv" else ",")
    return JsonLines(path) if kind == "lines" else JsonList(path)


class RecordRows(Rows):
    """A file of records, each read in the form that its first readable one has.

    Args:
        records: the file.
        options: where pictures are, and what columns mean.
    """

    def __init__(self, records: Records, options: Options) -> None:
        self.records = records
        self.name = records.path.stem
        if not len(records):
            raise DataError("data_empty", f"{records.path} holds 0 rows")
        first = self._first()
        self.shape = shape_of(first, str(records.path), options.columns)
        if self.shape.check is not None:
            self.shape.check(first, options.columns)
        self._reading = Reading(find=PictureFinder.beside(records.path, options.images), columns=options.columns)
        self.fingerprint = digest_of("records", self.shape.name, records.digest, sorted(options.columns.items()))

    def _first(self) -> Mapping[str, Any]:
        """The first record that parses; the first hundred are tried."""
        failures = []
        for index in range(min(100, len(self.records))):
            try:
                return self.records.record(index)
            except DataError as error:
                failures.append(DataError(error.code, f"{self.records.place(index)}: {error.what}", hint=error.hint))
        raise failures[0]

    def __len__(self) -> int:
        return len(self.records)

    def place(self, index: int) -> Place:
        """Where row `index` stands."""
        return self.records.place(index)

    def key(self, index: int) -> str:
        """The file's name and the row's number from 0."""
        return f"{self.name}/{index}"

    def content(self, index: int) -> Content:
        """Row `index`."""
        return self.shape.read(self.records.record(index), self._reading)
