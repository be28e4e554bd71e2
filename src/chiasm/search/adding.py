"""Adding pictures to an index: read ahead, embedded in batches, told only once they are on disk.

A picture that can't be read or embedded is told by itself and harms no other. A file that is in the index as it is on
disk isn't read again, so that what a killed run left is gone on with by the same command.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from chiasm.core.errors import ChiasmError
from chiasm.processing.pictures import read_picture
from chiasm.search.index import Embedder, PictureIndex, Row, row_id

BATCH = 32  # pictures of a forward pass, and least rows of a commit
SHARE = 128  # a commit has one in so many of all rows: it looks through every part that earlier ones left
AHEAD = 8  # pictures decoded and not yet in a batch
MOST_PIXELS = 64_000_000  # a batch with more is closed


@dataclass(frozen=True, slots=True)
class File:
    """A picture's file: its absolute path, and its name from the folder that was added."""

    path: str
    name: str

    @property
    def id(self) -> str:
        """Of its row."""
        return row_id(self.path)


@dataclass(slots=True)
class _Open:
    file: File
    picture: Image.Image
    bytes: int
    modified: int


@dataclass(slots=True)
class Adding:
    """One run over files.

    Attributes:
        index: where they go.
        model: what embeds them.
        on_stored: called with a file once its row is on disk; also for one that was there before.
        on_refused: called with a file that can't be read or embedded, and why; its earlier row is gone by then.
    """

    index: PictureIndex
    model: Embedder
    on_stored: Callable[[File], None]
    on_refused: Callable[[File, ChiasmError], None]
    _known: dict[str, tuple[int, int]] = field(default_factory=dict)
    _ready: list[tuple[File, Row]] = field(default_factory=list)  # embedded, and not on disk yet

    def run(self, files: Sequence[File]) -> None:
        """Add every file.

        Raises:
            ChiasmError: index_unwritable; what was told until then stays.
        """
        self._known = self.index.known()
        rows, batch = len(self._known), list[_Open]()
        for opened in self._opened(files):
            batch.append(opened)
            if len(batch) == BATCH or sum(each.picture.width * each.picture.height for each in batch) > MOST_PIXELS:
                self._embed(batch)
                batch = []
            if len(self._ready) >= max(BATCH, rows // SHARE):
                rows += self._store()
        self._embed(batch)
        self._store()
        self.index.tidy()

    def _opened(self, files: Sequence[File]) -> Iterator[_Open]:
        """Files that aren't in the index yet, decoded in two threads; the others and the bad ones are told."""
        waiting: deque[tuple[File, Future[_Open | None]]] = deque()
        rest = iter(files)
        with ThreadPoolExecutor(2) as pool:
            try:
                while True:
                    while len(waiting) < AHEAD and (file := next(rest, None)) is not None:
                        waiting.append((file, pool.submit(self._open, file)))
                    if not waiting:
                        return
                    file, future = waiting.popleft()
                    try:
                        opened = future.result()
                    except ChiasmError as error:
                        self._refuse(file, error)
                        continue
                    if opened is None:
                        self.on_stored(file)
                    else:
                        yield opened
            finally:
                pool.shutdown(cancel_futures=True)

    def _open(self, file: File) -> _Open | None:
        try:
            status = os.stat(file.path)  # before it is read: a change in between is seen the next time
            stamp = status.st_size, status.st_mtime_ns
        except OSError:
            stamp = 0, 0  # reading tells why
        return None if self._known.get(file.id) == stamp else _Open(file, read_picture(file.path), *stamp)

    def _embed(self, batch: Sequence[_Open]) -> None:
        if not batch:
            return
        try:
            vectors = list(np.asarray(self.model.embed_images([each.picture for each in batch]), np.float32))
        except ChiasmError as error:
            if len(batch) == 1:
                self._refuse(batch[0].file, error)
            else:
                for each in batch:
                    self._embed([each])
            return
        for each, vector in zip(batch, vectors, strict=True):
            file = each.file
            row = Row(file.id, file.path, file.name, each.picture.size, each.bytes, each.modified, vector)
            self._ready.append((file, row))

    def _store(self) -> int:
        """Put all that is ready on disk and tell; how many rows that were."""
        ready, self._ready = self._ready, []
        self.index.put([row for _, row in ready])
        for file, _ in ready:
            self.on_stored(file)
        return len(ready)

    def _refuse(self, file: File, error: ChiasmError) -> None:
        if file.id in self._known:
            self.index.remove([file.id])
        self.on_refused(file, error)


def named_files(paths: Sequence[str], root: Path) -> list[File]:
    """Files with their names as seen from `root`; what no terminal or JSON can hold is replaced."""
    base = root.resolve()
    return [_file(base / os.path.relpath(path, root), os.path.relpath(path, root)) for path in paths]


def _file(path: Path, name: str) -> File:
    shown = name.encode("utf-8", "replace").decode()
    return File(str(path), "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in shown))
