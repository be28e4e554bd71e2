"""One index: a folder with a table of pictures and their vectors, which LanceDB keeps, and what made the vectors.

A row is there once `PictureIndex.put` returns: the table's files and folders are on disk by then, and whoever dies
in the middle leaves the table as it was before. One process writes at a time, the others wait: LanceDB lets two that
put the same new id in at once both have it. Search is exact: every vector is compared, so nothing is missed;
LanceDB's approximate indexes, which miss some, are not used.

Vectors of two models can't be compared, nor those of one model before and after its weights changed. So an index keeps
what its model said of one text and one picture, the probe, and a model that says otherwise is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from chiasm.core.errors import ChiasmError, SourceError
from chiasm.core.files import LEFTOVER, holds_nothing, sync, write_text

ABOUT, TABLE = "index.json", "pictures"
LOCK = f"{LEFTOVER}lock"  # a folder that holds nothing else is free
LAYOUT = 1
PROBE_TEXT = "two red apples to the left of a blue cup"
SAME = 0.98  # least cosine of the probe's vectors; eight-bit weights stay above it, another model far below
LONE_PARTS = 64  # appends after which the table is rewritten in fewer files


class Embedder(Protocol):
    """What makes vectors: `chiasm.Model`, or anything alike."""

    def embed_images(self, images: Any) -> Any:
        """(N, E) L2-normalised."""

    def embed_texts(self, texts: Any) -> Any:
        """(N, E) L2-normalised."""


@dataclass(frozen=True, slots=True)
class Row:
    """One picture of an index.

    Attributes:
        id: names the row as long as its file stays where it is.
        path: of the file.
        name: the same for people, from the folder that was added; no line breaks.
        size: (width, height), upright.
        bytes, modified: of the file when it was read; modified in nanoseconds.
        vector: (E,) float32, L2-normalised.
    """

    id: str
    path: str
    name: str
    size: tuple[int, int]
    bytes: int
    modified: int
    vector: np.ndarray


@dataclass(frozen=True, slots=True)
class Hit:
    """One found picture; `score` is the cosine of its vector and the query's."""

    id: str
    path: str
    name: str
    size: tuple[int, int]
    score: float


@dataclass(frozen=True, slots=True)
class About:
    """What made an index's vectors.

    Attributes:
        model: what it was loaded from.
        probe: (2, E) its vectors of `PROBE_TEXT` and `probe_picture()`.
    """

    model: str
    probe: np.ndarray

    def check(self, probe: np.ndarray, name: str) -> None:
        """Refuse another model's vectors.

        Args:
            probe: (2, E) of the other.
            name: what it is called.

        Raises:
            ChiasmError: index_model.
        """
        agreed = float((self.probe * probe).sum(-1).min()) if probe.shape == self.probe.shape else None
        if agreed is None:
            what = f"its vectors have {self.probe.shape[1]} numbers, those of {name} {probe.shape[1]}"
        elif agreed < SAME:
            what = f"the two give the probe vectors with a cosine of {agreed:.3f}, the least is {SAME}"
        else:
            return
        hint = "chiasm index add NEW-INDEX FOLDER --model MODEL"
        raise ChiasmError("index_model", f"the index was made with another model ({self.model}): {what}", hint=hint)


class PictureIndex:
    """Pictures by their vectors.

    Args:
        folder: from `create` or of an earlier index.

    Raises:
        ChiasmError: index_missing or index_unreadable.
        SourceError: LanceDB isn't installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.about = folder, _read_about(folder)
        self._table = _table(folder, self.about.probe.shape[1])
        self._synced: set[str] = set()

    @classmethod
    def create(cls, folder: Path, about: About) -> PictureIndex:
        """A new index, empty.

        Args:
            folder: doesn't exist or holds nothing.
            about: what will make its vectors.

        Raises:
            ChiasmError: index_exists; index_model, when somebody else made it meanwhile for another.
        """
        check_free(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if not (folder / ABOUT).exists():
                document = {"layout": LAYOUT, "model": about.model, "probe": about.probe.tolist()}
                write_text(folder / ABOUT, json.dumps(document))
                sync(folder)
                sync(folder.absolute().parent)
            made = cls(folder)
        made.about.check(about.probe, about.model)
        return made

    def __len__(self) -> int:
        with self._told():
            return int(self._table.count_rows())

    def known(self) -> dict[str, tuple[int, int]]:
        """Of every row, by id, its file's (bytes, modified). All rows are on disk."""
        with self._told():
            rows = self._table.search().select(["id", "bytes", "modified"]).to_arrow()
        self._settle()
        columns = (rows[name].to_pylist() for name in ("id", "bytes", "modified"))
        return {name: (length, modified) for name, length, modified in zip(*columns, strict=True)}

    def paths(self) -> dict[str, str]:
        """Of every row, by id, its file's path."""
        with self._told():
            rows = self._table.search().select(["id", "path"]).to_arrow()
        return dict(zip(rows["id"].to_pylist(), map(os.fsdecode, rows["path"].to_pylist()), strict=True))

    def put(self, rows: Sequence[Row]) -> None:
        """Add rows, in the place of those with the same id; when this returns they are on disk.

        Raises:
            ChiasmError: index_unwritable.
        """
        import pyarrow as pa

        if not rows:
            return
        vectors = np.stack([row.vector for row in rows]).astype(np.float32)
        columns = [
            [row.id for row in rows],
            [os.fsencode(row.path) for row in rows],
            [row.name for row in rows],
            [row.size[0] for row in rows],
            [row.size[1] for row in rows],
            [row.bytes for row in rows],
            [row.modified for row in rows],
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        ]
        table = pa.table(columns, schema=_schema(vectors.shape[1]))
        with self._writing():
            self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(table)
            self._settle()

    def remove(self, ids: Iterable[str]) -> int:
        """Take rows out; how many there were.

        Raises:
            ChiasmError: index_unwritable.
        """
        wanted = [name for name in ids if name.isalnum()]
        with self._writing():
            before = len(self)
            for start in range(0, len(wanted), 1000):
                listed = ", ".join(f"'{name}'" for name in wanted[start : start + 1000])
                self._table.delete(f"id IN ({listed})")
            self._settle()
            return before - len(self)

    def tidy(self) -> None:
        """Rewrite many small parts as few; readers of the old ones go on with them for a week."""
        with self._writing():
            if self._table.stats()["fragment_stats"]["num_small_fragments"] > LONE_PARTS:
                self._table.optimize()
                self._settle()

    def search(self, vector: np.ndarray, limit: int) -> list[Hit]:
        """The likest pictures.

        Args:
            vector: (E,) L2-normalised.
            limit: most of them.

        Returns:
            Best first; equal scores by id.
        """
        with self._told():
            asked = self._table.search(np.asarray(vector, np.float32)).distance_type("dot").limit(limit)
            rows = asked.select(["id", "path", "name", "width", "height", "_distance"]).to_arrow().to_pylist()
        hits = [
            Hit(row["id"], os.fsdecode(row["path"]), row["name"], (row["width"], row["height"]), 1 - row["_distance"])
            for row in rows
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))

    def _settle(self) -> None:
        """Wait until every file of the table is on disk, and the folders that name them."""
        for folder, _, names in os.walk(self.folder / f"{TABLE}.lance"):
            new = {os.path.join(folder, name) for name in names} - self._synced
            for path in new:
                with contextlib.suppress(FileNotFoundError):  # another process tidied up
                    sync(Path(path))
            if new or folder not in self._synced:
                sync(Path(folder))
            self._synced |= {*new, folder}
        sync(self.folder)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._told("index_unwritable"), _locked(self.folder):
            yield

    @contextlib.contextmanager
    def _told(self, code: str = "index_unreadable") -> Iterator[None]:
        """LanceDB's failures in one line with a code."""
        try:
            yield
        except (RuntimeError, ValueError, OSError) as error:
            if isinstance(error, ChiasmError):
                raise
            raise ChiasmError(code, f"{self.folder}: {_brief(error)}") from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Nobody else writes; whoever is killed lets go."""
    with open(folder / LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_free(folder: Path) -> None:
    """Refuse a place that isn't a new index's.

    Raises:
        ChiasmError: index_exists.
    """
    if folder.exists() and not (folder.is_dir() and holds_nothing(folder)):
        raise ChiasmError("index_exists", f"{folder} holds something that is no index", hint="name another folder")


def probe_picture() -> Image.Image:
    """A picture that every version of chiasm draws alike: colours that change along both sides, 96 × 64."""
    y, x = np.mgrid[0:64, 0:96]
    return Image.fromarray(np.stack([x * 255 // 95, y * 255 // 63, (x + y) % 32 * 8], -1).astype(np.uint8))


def probed(model: Embedder) -> np.ndarray:
    """(2, E) a model's vectors of the probe.

    Raises:
        CapabilityError: the family has no embeddings.
    """
    vectors = [model.embed_texts([PROBE_TEXT]), model.embed_images([probe_picture()])]
    return np.concatenate([np.asarray(each, np.float32) for each in vectors])


def row_id(path: str) -> str:
    """32 hexadecimal digits for a file, by its absolute path."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:32]


def _read_about(folder: Path) -> About:
    try:
        document = json.loads((folder / ABOUT).read_text("utf-8"))
        probe = np.asarray(document["probe"], np.float32)
        if document["layout"] != LAYOUT:
            raise ValueError(f"layout {document['layout']}, this version reads {LAYOUT}")
        if probe.ndim != 2 or len(probe) != 2 or not np.isfinite(probe).all():
            raise ValueError(f"the probe has the shape {probe.shape}, or no finite numbers; needs 2 vectors")
        return About(str(document["model"]), probe)
    except (FileNotFoundError, NotADirectoryError):
        hint = "chiasm index add INDEX FOLDER --model MODEL"
        raise ChiasmError("index_missing", f"{folder} is no index: it has no {ABOUT}", hint=hint) from None
    except (KeyError, OverflowError, RecursionError, TypeError, ValueError, OSError) as error:
        raise ChiasmError("index_unreadable", f"{folder / ABOUT}: {_brief(error)}") from error


def _table(folder: Path, width: int) -> Any:
    try:
        import lancedb
    except ImportError:
        hint = "pip install 'chiasm[search]'"
        raise SourceError("package_missing", "the package lancedb is not installed", hint=hint) from None
    try:
        # An interval of nothing: every search sees what other processes have put in by then.
        store = lancedb.connect(str(folder.absolute()), read_consistency_interval=timedelta(0))
        holds = any((folder / f"{TABLE}.lance" / "data").glob("*"))  # if not, who made the index was killed before
        table = store.open_table(TABLE) if holds else store.create_table(TABLE, schema=_schema(width), exist_ok=True)
    except (RuntimeError, ValueError, OSError) as error:
        raise ChiasmError("index_unreadable", f"{folder}: {_brief(error)}") from error
    if table.schema != _schema(width):
        raise ChiasmError("index_unreadable", f"{folder}: the table's columns are not those of an index")
    return table


def _schema(width: int) -> Any:
    import pyarrow as pa

    fields = {"id": pa.string(), "path": pa.binary(), "name": pa.string(), "width": pa.int32(), "height": pa.int32()}
    fields |= {"bytes": pa.int64(), "modified": pa.int64(), "vector": pa.list_(pa.float32(), width)}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields.items()])


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
