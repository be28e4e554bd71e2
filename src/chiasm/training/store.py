"""The feature store's files: arrays by key, written once, mapped ever after.

A store is a folder named by a hash of everything its arrays depend on. Every process that writes has a data file and an
index of its own, so writers never meet; readers look into all of them. An index line (key, offset, shape, checksum, and
a note for the reader) is appended only after its array is on disk, so a crash leaves no line without its array, and a
line that was cut off is not read. What a checksum refutes counts as absent.

The limit is over all stores of a folder. To make room, stores that no process has open go, the one longest unused
first; then writing stops, and what isn't stored is computed anew each time. Nothing in use is ever evicted: an epoch
reads a store from one end to the other, and dropping old entries for new ones would leave nothing to be found.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chiasm.core.errors import ConfigError

FLUSH = 64  # arrays between two syncs
SPARE = 256 << 20  # bytes of disk that are never taken
DTYPES = ("float32", "float16")


class Entry(NamedTuple):
    """Where an array stands."""

    file: str
    offset: int
    shape: tuple[int, ...]
    checksum: int
    note: Any


class FeatureStore:
    """Arrays by key.

    Args:
        folder: holds stores.
        description: everything the arrays depend on, as JSON values; it names the store.
        limit_bytes: of all stores in `folder` together.
        dtype: of the stored numbers, ``float32`` or ``float16``.
        tell: called with one line when the store is full or another one is evicted.

    Raises:
        ConfigError: another dtype, or a folder that holds something else under the store's name.
    """

    def __init__(
        self,
        folder: Path,
        description: Mapping[str, Any],
        *,
        limit_bytes: int = 20 << 30,
        dtype: str = "float32",
        tell: Callable[[str], None] | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ConfigError("store_dtype", f"features are stored as {' or '.join(DTYPES)}, not {dtype!r}")
        described = json.dumps({**description, "dtype": dtype}, sort_keys=True)
        self.root, self.folder = folder, folder / sha256(described.encode()).hexdigest()[:20]
        self.dtype, self.limit_bytes, self.full = np.dtype(dtype), limit_bytes, False
        self._tell = tell or (lambda line: None)
        self._entries: dict[str, Entry] = {}
        self._read: dict[str, int] = {}  # bytes of each index that are known
        self._maps: dict[str, np.ndarray] = {}
        self._pending: dict[str, tuple[np.ndarray, Any]] = {}
        self._writer: tuple[int, Any, Any] | None = None  # process, data, index
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("a")
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        about = self.folder / "about.json"
        if not about.exists():
            partial = self.folder / f".about-{uuid.uuid4().hex}"
            partial.write_text(described, "utf-8")
            partial.rename(about)
        elif about.read_text("utf-8") != described:
            raise ConfigError("store_changed", f"{about} describes other features", hint="another folder for features")
        os.utime(about)  # when it was last used
        self.refresh()

    def __len__(self) -> int:
        return len(self._entries) + len(self._pending)

    def __contains__(self, key: str) -> bool:
        return key in self._pending or key in self._entries

    @property
    def num_bytes(self) -> int:
        """Bytes on disk of every store in the folder."""
        return sum(path.stat().st_size for path in self.root.glob("*/*.data") if path.exists())

    def refresh(self) -> None:
        """Read what was added since, by any process."""
        for path in sorted(self.folder.glob("*.index")):
            known = self._read.get(path.stem, 0)
            if path.stat().st_size <= known:
                continue
            with path.open("rb") as file:
                file.seek(known)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            for line in whole.splitlines():
                self._learn(path.stem, line)
            self._read[path.stem] = known + len(whole)

    def get(self, keys: Sequence[str]) -> list[tuple[np.ndarray, Any] | None]:
        """For each key its array, a copy, and the note stored with it; None where there is none."""
        if any(key not in self for key in keys):
            self.refresh()
        return [self._one(key) for key in keys]

    def put(self, key: str, array: np.ndarray, note: Any = None) -> None:
        """Store an array, unless its key is there already or the limit is reached.

        Args:
            key: text without line breaks.
            array: numbers of any shape; converted to the store's dtype.
            note: JSON values given back with it.
        """
        if key in self or self.full:
            return
        self._pending[key] = (np.ascontiguousarray(array, self.dtype), note)
        if len(self._pending) >= FLUSH:
            self.flush()

    def flush(self) -> None:
        """Put what is pending on disk: first the arrays, then, when they are safe, their index lines."""
        if not self._pending:
            return
        if not self._make_room(sum(array.nbytes for array, _ in self._pending.values())):
            self._pending.clear()
            return
        data, index = self._files()
        lines = []
        for key, (array, note) in self._pending.items():
            raw = array.tobytes()
            lines.append(json.dumps([key, data.tell(), list(array.shape), zlib.crc32(raw), note]))
            data.write(raw)
        data.flush()
        os.fsync(data.fileno())
        index.write("".join(line + "\n" for line in lines).encode())
        index.flush()
        os.fsync(index.fileno())
        self._pending.clear()
        self.refresh()

    def close(self) -> None:
        """Flush, and let the store be evicted when room is needed."""
        self.flush()
        if self._writer is not None:
            for file in self._writer[1:]:
                file.close()
            self._writer = None
        self._maps.clear()
        self._lock.close()

    def _learn(self, file: str, line: bytes) -> None:
        try:
            key, offset, shape, checksum, note = json.loads(line)
            self._entries.setdefault(key, Entry(file, offset, tuple(shape), checksum, note))
        except (ValueError, TypeError):
            return  # a line that a crash or a disk damaged: its array is computed again

    def _one(self, key: str) -> tuple[np.ndarray, Any] | None:
        if key in self._pending:
            return self._pending[key]
        entry = self._entries.get(key)
        if entry is None:
            return None
        size = int(np.prod(entry.shape)) * self.dtype.itemsize
        stop = entry.offset + size
        raw = self._bytes(entry.file, stop)[entry.offset : stop].tobytes()
        if len(raw) != size or zlib.crc32(raw) != entry.checksum:
            del self._entries[key]
            self._tell(f"{self.folder.name}/{entry.file}.data is damaged at byte {entry.offset}: computed again")
            return None
        return np.frombuffer(raw, self.dtype).reshape(entry.shape), entry.note

    def _bytes(self, file: str, end: int) -> np.ndarray:
        path = self.folder / f"{file}.data"
        mapped = self._maps.get(file)
        if mapped is None or len(mapped) < end:
            mapped = self._maps[file] = np.memmap(path, np.uint8, "r")
        return mapped

    def _files(self) -> tuple[Any, Any]:
        """This process's own pair; a fork gets a new one."""
        if self._writer is None or self._writer[0] != os.getpid():
            name = f"{int(time.time())}-{uuid.uuid4().hex[:12]}"
            data, index = ((self.folder / f"{name}.{kind}").open("xb") for kind in ("data", "index"))
            self._writer = os.getpid(), data, index
        return self._writer[1], self._writer[2]

    def _make_room(self, wanted: int) -> bool:
        """Whether `wanted` bytes may be written, after evicting what nobody uses."""
        others = sorted(self.root.glob("*/about.json"), key=lambda path: path.stat().st_mtime)
        for about in [path for path in others if path.parent != self.folder]:
            if self._fits(wanted):
                break
            _evict(about.parent, self._tell)
        if not self._fits(wanted):
            self.full = True
            what = f"the feature store is full: {self.num_bytes:,} of at most {self.limit_bytes:,} bytes"
            free = shutil.disk_usage(self.root).free
            self._tell(
                f"{what}, {free:,} free on its disk; {len(self._entries)} pictures are stored, the others are not"
            )
        return not self.full

    def _fits(self, wanted: int) -> bool:
        free = shutil.disk_usage(self.root).free
        return self.num_bytes + wanted <= self.limit_bytes and wanted + SPARE <= free


def _evict(store: Path, tell: Callable[[str], None]) -> None:
    """Delete a store that no process has open."""
    try:
        with (store / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            gone = store.with_name(f".{store.name}-{uuid.uuid4().hex[:8]}")
            store.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
            tell(f"the feature store {store.name}, which nothing used, was deleted to make room")
    except OSError:
        return  # in use, or gone already
