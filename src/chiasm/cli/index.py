"""`chiasm index`: add a folder's pictures to an index, take some out, tell what it holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from chiasm.cli.bulk import listed_pictures
from chiasm.cli.options import LOADING, OUTPUT, Loading, Output
from chiasm.cli.output import FAILED, UsageError, emit, note, progress, report, say
from chiasm.core.errors import ChiasmError

if TYPE_CHECKING:
    from chiasm.models.model import Model
    from chiasm.search.adding import File
    from chiasm.search.index import PictureIndex

index = App(name="index", help="Keep an index of pictures, for chiasm search and serve.", help_format="plaintext")


@index.command
def add(target: Path, folder: str, /, *more: str, model: str | None = None, options: Loading = LOADING) -> int:
    """Add every picture of a folder and below: chiasm index add INDEX FOLDER --model nano-dual.

    Prints ACK and the row's id once the row is on disk; whatever happens then, it is found. A file that is in the index
    and hasn't changed isn't read again, so the same command goes on where a stopped one was. Exit code 1 when a picture
    can't be read; the others are added.

    Args:
        target: The index, a folder of its own; made when it doesn't exist.
        folder: A folder of pictures, or one picture.
        more: More of them.
        model: What embeds the pictures: a bundled name, a folder, or a hub id. An index knows its own later.
    """
    files = list({file.id: file for source in (folder, *more) for file in _files(source)}.values())
    opened, loaded = _opened(target, model, options)
    from chiasm.search.adding import Adding

    show, refused = progress("pictures"), 0
    done = 0

    def stored(file: File) -> None:
        nonlocal done
        if options.json:
            emit({"ack": file.id, "name": file.name})
        else:
            say(f"ACK {file.id}")
        done += 1
        show(done + refused, len(files))

    def refuse(file: File, error: ChiasmError) -> None:
        nonlocal refused
        refused += 1
        if options.json:
            emit({"refused": file.name, "error": {"code": error.code, "message": error.what}})
        report(error, as_json=False)
        show(done + refused, len(files))

    Adding(opened, loaded, stored, refuse).run(files)
    note(f"{target}: {done:,} of {len(files):,} pictures are in, {refused:,} can't be read; {len(opened):,} rows")
    return FAILED if refused else 0


@index.command
def remove(target: Path, /, *ids: str, gone: bool = False, options: Output = OUTPUT) -> None:
    """Take rows out: chiasm index remove INDEX ID, or --gone for all whose files are no longer there.

    Args:
        target: The index.
        ids: Rows, as ACK and search name them.
        gone: Every row whose file is no longer there.
    """
    if not ids and not gone:
        raise UsageError("neither an id nor --gone was given", hint=f"chiasm index remove {target} --gone")
    from chiasm.search.index import PictureIndex

    opened = PictureIndex(target)
    missing = [name for name, path in opened.paths().items() if not os.path.exists(path)] if gone else []
    removed = opened.remove({*ids, *missing})
    if options.json:
        emit({"removed": removed, "rows": len(opened)})
    else:
        say(f"{removed:,} rows are out, {len(opened):,} are left")


@index.command
def info(target: Path, /, *, options: Output = OUTPUT) -> None:
    """Tell what an index holds: chiasm index info INDEX.

    Args:
        target: The index.
    """
    from chiasm.search.index import PictureIndex

    opened = PictureIndex(target)
    rows, width = len(opened), opened.about.probe.shape[1]
    if options.json:
        emit({"model": opened.about.model, "width": width, "rows": rows})
    else:
        say(f"{target}: {rows:,} pictures, vectors of {width} numbers from {opened.about.model}")


def model_of(opened: PictureIndex, model: str | None, options: Loading) -> Model:
    """The model that made an index's vectors, loaded from where it was then, or from `model`.

    Raises:
        ChiasmError: index_model, when it is another.
    """
    from chiasm.search.index import probed

    source = model or opened.about.model
    loaded = options.load(source)
    opened.about.check(probed(loaded), source)
    return loaded


# --- helpers ------------------------------------------------------------------------------------------------


def _files(source: str) -> Sequence[File]:
    from chiasm.search.adding import named_files

    root = Path(source) if os.path.isdir(source) else Path(source).parent
    return named_files(listed_pictures([source]), root)


def _opened(target: Path, model: str | None, options: Loading) -> tuple[PictureIndex, Model]:
    """An index, made if need be, and its model."""
    from chiasm.search.index import ABOUT, About, PictureIndex, check_free, probed

    if (target / ABOUT).exists():
        opened = PictureIndex(target)
        return opened, model_of(opened, model, options)
    if model is None:
        raise UsageError(f"{target} is a new index and --model was not given", hint="--model nano-dual")
    check_free(target)
    loaded = options.load(model)
    source = str(Path(model).resolve()) if os.path.isdir(model) else model
    return PictureIndex.create(target, About(source, probed(loaded))), loaded
