"""Files that are there whole or not at all: a temporary one beside, fsync, rename."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

LEFTOVER = ".writing-"  # how the name of a temporary file begins; one that stays behind is a killed writer's


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write in the place of another.

    Args:
        path: the file; its folder must exist.

    Yields:
        An empty temporary file in the same folder, with the same suffix. When the block ends well it is on disk and
        `path` names it; when the block fails it is gone, and `path` is what it was.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=LEFTOVER, suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        sync(Path(name))
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(text, "utf-8")


def sync(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def holds_nothing(folder: Path) -> bool:
    """Whether a folder has no entry, or only what a writer left that was killed."""
    return all(entry.name.startswith(LEFTOVER) for entry in folder.iterdir())
