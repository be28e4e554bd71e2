"""Digests of files, and arrays worth keeping beside them: both keyed by what a file is, never by its name alone."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np

from chiasm.core.files import replacing
from chiasm.data.debian import cache_folder

WHOLE = 4 * 2**30  # larger files are digested by their ends and their time of change
_END = 2**20


def digest_of(*words: object) -> str:
    """One digest of several words, each kept apart from the next."""
    digest = hashlib.blake2b(digest_size=16)
    for word in words:
        text = str(word).encode("utf-8", "surrogateescape")
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Digest of a file's content; over 4 GiB, of its size, first and last MiB and time of change."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= WHOLE:
            while block := file.read(_END):
                digest.update(block)
        else:
            digest.update(file.read(_END))
            file.seek(-_END, os.SEEK_END)
            digest.update(file.read(_END))
            digest.update(f"{size} {os.fstat(file.fileno()).st_mtime_ns}".encode())
    return digest.hexdigest()


def file_state(path: Path) -> str:
    """A key of the file as it is now: its real path, size, time of change, and first and last KiB."""
    status = path.stat()
    with open(path, "rb") as file:
        ends = file.read(1024)
        file.seek(max(0, status.st_size - 1024))
        ends += file.read(1024)
    return digest_of(os.path.realpath(path), status.st_size, status.st_mtime_ns, hashlib.sha256(ends).hexdigest())


def load_arrays(kind: str, state: str) -> dict[str, np.ndarray] | None:
    """Arrays kept for a file in this state; None when there are none, or they can't be read."""
    path = _place(kind, state)
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        if not isinstance(error, FileNotFoundError):
            with contextlib.suppress(OSError):
                path.unlink()
        return None
    except Exception:  # zipfile has errors of its own for a file that was cut
        return None


def keep_arrays(kind: str, state: str, arrays: dict[str, np.ndarray]) -> None:
    """Keep arrays for a file in this state; a cache that can't be written is no failure."""
    path = _place(kind, state)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            np.savez(beside, **arrays)  # type: ignore[arg-type]
    except OSError:
        return


def _place(kind: str, state: str) -> Path:
    return cache_folder() / "indexes" / f"{kind}-{state}.npz"
