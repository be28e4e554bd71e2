"""An index over a tar file: where each member stands, so that any of them is one read away.

Format: POSIX.1-1988 ustar, GNU (long names, base-256 sizes) and POSIX.1-2001 pax headers (`path`, `size`). Nothing is
ever unpacked, so a member's name or link can't lead anywhere; a member whose name leaves its folder, or that is no
regular file, is kept in the index as a fault. After a header that can't be read, or a size that reaches past the end
of the file, the next valid header is looked for, block by block; every step moves forward, so damage costs time linear
in the file and never more. The archive ends at two blocks of zeros, as every reader of tar has it.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chiasm.core.errors import DataError
from chiasm.data import stamps

BLOCK = 512
LONG_LIMIT = 2**20  # bytes of one long name or pax header
_REGULAR, _FOLDER = (b"0", b"\0", b"7"), b"5"
_KINDS = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a pipe"}
_SCAN = 2**20


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its name, the offsets of its header and its content, its size in bytes, and what is wrong with it.

    A member without a name stands for a stretch in which no header could be read.
    """

    name: str
    header: int
    offset: int
    size: int
    fault: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class TarIndex:
    """Every member of one tar file in order, folders left out, and a digest of what stands there.

    The digest covers every header and the first and last 512 bytes of every member.
    """

    path: Path
    state: str
    members: tuple[Member, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class TarMember:
    """A member's bytes, read when they are asked for; a `StoredPicture`."""

    path: str
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """Shard and member, for people."""
        return f"{os.path.basename(self.path)}:{self.member}"

    def read_bytes(self, max_bytes: int) -> bytes:
        """The content, or its first `max_bytes` + 1 bytes.

        Raises:
            DataError: the shard is gone, or shorter than when it was indexed.
        """
        wanted = min(self.size, max_bytes + 1)
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise DataError("data_missing", f"{self.path} can't be opened: {(error.strerror or '').lower()}") from None
        try:
            data = os.pread(handle, wanted, self.offset)
        finally:
            os.close(handle)
        if len(data) < wanted:
            raise DataError("data_changed", f"{self.name} had {self.size:,} bytes when indexed, now {len(data):,}")
        return data


def tar_index(path: Path) -> TarIndex:
    """Index a tar file; a second call finds the index in the cache unless the file has changed.

    Raises:
        DataError: the file can't be opened, is compressed, or is no tar file.
    """
    try:
        state = stamps.file_state(path)
    except OSError as error:
        raise DataError("data_missing", f"{path} can't be opened: {(error.strerror or str(error)).lower()}") from None
    if stored := stamps.load_arrays("tar", state):
        found = _unpack(path, state, stored)
        if found is not None:
            return found
    with open(path, "rb") as file:
        walk = _Walk(file.fileno(), path)
        walk.run()
    index = TarIndex(path, state, tuple(walk.members), walk.digest.hexdigest())
    stamps.keep_arrays("tar", state, _pack(index))
    return index


class _Walk:
    """One pass over the headers."""

    def __init__(self, handle: int, path: Path) -> None:
        self.handle, self.path = handle, path
        self.end = os.fstat(handle).st_size
        self.members: list[Member] = []
        self.digest = hashlib.blake2b(digest_size=16)
        self._long: dict[str, str] = {}
        self._long_fault: tuple[str, str] | None = None

    def run(self) -> None:
        position = 0
        self._check_kind(os.pread(self.handle, BLOCK, 0))
        while position < self.end:
            # one read covers the end of the last member, the header, and the start of the next content
            before = min(position, BLOCK)
            window = os.pread(self.handle, before + 2 * BLOCK, position - before)
            self.digest.update(window)
            header = window[before : before + BLOCK]
            if not header.strip(b"\0"):
                following = window[before + BLOCK :]
                if not following.strip(b"\0"):
                    return  # two empty blocks, or one at the very end
                position += BLOCK
                continue
            position = self._member(header, position)

    def _check_kind(self, first: bytes) -> None:
        if first[:2] == b"\x1f\x8b" or first[:3] in (b"BZh", b"\xfd7z") or first[:4] == b"\x28\xb5\x2f\xfd":
            kind = {b"\x1f": "gzip -d", b"B": "bzip2 -d", b"\xfd": "xz -d", b"(": "zstd -d"}[first[:1]]
            raise DataError(
                "tar_compressed",
                f"{self.path} is compressed, so no row of it can be reached without reading all before it",
                hint=f"{kind} {self.path}",
            )

    def _member(self, header: bytes, position: int) -> int:
        """Take one header; returns where the next one is expected."""
        cut, whole, header = len(header) < BLOCK, header, header.ljust(BLOCK, b"\0")
        name = _text(header[:100])
        if header[257:263] == b"ustar\0" and header[345] != 0:
            name = f"{_text(header[345:500])}/{name}"
        size = _number(header[124:136])
        if cut or size is None or not _checksum_fits(header):
            # the name of a header that the file ends in is whole when its end is there; of a damaged one, never sure
            known = b"\0" in whole[:100] if cut else header[257:262] == b"ustar"
            return self._lost(position, name if known else "", "the header is damaged", cut)
        kind, start = header[156:157], position + BLOCK
        if kind in (b"x", b"g", b"L", b"K"):
            return self._long_header(kind, start, size, position)
        size = int(self._long.pop("size", size))
        name = self._long.pop("path", name)
        fault, self._long_fault = self._long_fault, None
        self._long.clear()
        if kind == _FOLDER or (kind == b"\0" and name.endswith("/")):
            return start
        if kind in _KINDS:
            self.members.append(Member(name, position, start, 0, ("member_special", f"{name} is {_KINDS[kind]}")))
            return start  # links and devices have no content
        if kind not in _REGULAR:
            fault = ("member_special", f"{name} is a member of kind {kind!r}")
        fault = fault or name_fault(name)
        if start + size > self.end:
            left = max(0, self.end - start)
            what = f"{name} declares {size:,} bytes, {left:,} are left"
            self.members.append(Member(name, position, start, left, ("member_truncated", what)))
            return self._next_header(start)
        self.members.append(Member(name, position, start, size, fault))
        return start + -(-size // BLOCK) * BLOCK

    def _long_header(self, kind: bytes, start: int, size: int, position: int) -> int:
        if size > LONG_LIMIT or start + size > self.end:
            return self._lost(position, "", f"a long name of {size:,} bytes, the limit is {LONG_LIMIT:,}")
        data = os.pread(self.handle, size, start)
        self.digest.update(data)
        if kind == b"L":
            self._long["path"] = _text(data)
        elif kind == b"x":
            for key, value in _pax(data):
                if key == "path" or (key == "size" and value.isascii() and value.isdigit() and len(value) < 19):
                    self._long[key] = value
                elif key.startswith("GNU.sparse"):
                    self._long_fault = ("member_special", "a sparse member")
        return start + -(-size // BLOCK) * BLOCK

    def _lost(self, position: int, name: str, why: str, cut: bool = False) -> int:
        following = self.end if cut else self._next_header(position + BLOCK)
        what = f"{following - position:,} bytes from {position:,} can't be read: {why}"
        fault = ("tar_truncated", f"the file ends in a header, at byte {self.end:,}") if cut else ("tar_damaged", what)
        self.members.append(Member(name, position, position, 0, fault))
        self._long.clear()
        self._long_fault = None
        return following

    def _next_header(self, position: int) -> int:
        """The first valid header at or after `position`, or the end."""
        while position < self.end:
            chunk = os.pread(self.handle, _SCAN, position)
            for start in range(0, len(chunk) - BLOCK + 1, BLOCK):
                if chunk[start + 257 : start + 262] == b"ustar" and _checksum_fits(chunk[start : start + BLOCK]):
                    return position + start
            position += _SCAN
        return self.end


def name_fault(name: str) -> tuple[str, str] | None:
    """What is wrong with a member's name, if anything."""
    if "\udc80" <= max(name, default="") <= "\udcff" or re.search("[\udc80-\udcff]", name):
        return "name_encoding", f"the name {shown(name)!r} is not UTF-8"
    if name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
        return "name_unsafe", f"the name {name!r} leads out of its folder"
    if any(ord(character) < 32 for character in name):
        return "name_unsafe", f"the name {name!r} holds control characters"
    return None


def shown(name: str) -> str:
    """A name that may hold undecodable bytes, as printable text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int | None:
    """Octal digits, or GNU's base 256; None for anything else, negative numbers included."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    return int(digits, 8) if re.fullmatch(b"[0-7]*", digits) and digits else (0 if not digits else None)


def _checksum_fits(header: bytes) -> bool:
    if len(header) < BLOCK:
        return False
    stored = _number(header[148:156])
    return stored is not None and sum(header) - sum(header[148:156]) + 8 * 32 == stored


def _pax(data: bytes) -> list[tuple[str, str]]:
    """The `length key=value` records; what can't be read is left out."""
    records, position = [], 0
    while match := re.compile(rb"(\d{1,7}) ([^=]+)=").match(data, position):
        length = int(match.group(1))
        if length <= match.end() - position:
            break
        value = data[match.end() : position + length - 1]
        records.append((match.group(2).decode("utf-8", "replace"), value.decode("utf-8", "surrogateescape")))
        position += length
    return records


def _pack(index: TarIndex) -> dict[str, np.ndarray]:
    members = index.members
    faults = {i: member.fault for i, member in enumerate(members) if member.fault}
    texts = [*(member.name for member in members), *(word for fault in faults.values() for word in fault)]
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    return {
        "numbers": np.array([(m.header, m.offset, m.size) for m in members], np.int64).reshape(-1, 3),
        "faulty": np.array(list(faults), np.int64),
        "lengths": np.array([len(text) for text in encoded], np.int64),
        "texts": np.frombuffer(b"".join(encoded), np.uint8),
        "digest": np.frombuffer(index.digest.encode(), np.uint8),
    }


def _unpack(path: Path, state: str, stored: dict[str, np.ndarray]) -> TarIndex | None:
    if set(stored) != {"numbers", "faulty", "lengths", "texts", "digest"}:
        return None
    data, stops = stored["texts"].tobytes(), np.cumsum(stored["lengths"]).tolist()
    texts = [
        data[start:stop].decode("utf-8", "surrogateescape") for start, stop in zip([0, *stops], stops, strict=False)
    ]
    numbers = stored["numbers"].tolist()
    words = iter(texts[len(numbers) :])
    faults = {int(i): (next(words), next(words)) for i in stored["faulty"].tolist()}
    members = tuple(Member(texts[i], row[0], row[1], row[2], faults.get(i)) for i, row in enumerate(numbers))
    return TarIndex(path, state, members, stored["digest"].tobytes().decode())
