"""A Debian package's files without root: `apt-get download`, a pinned hash, and an unpacker in pure Python.

A `.deb` is an `ar` archive (deb(5)) of three members; `data.tar.*` holds the files. Only regular files with plain
relative names below the wanted prefixes are written: links, devices, absolute names and `..` are left out, so nothing
can land outside the target. The finished folder appears in one rename, so that a killed run leaves no half pack.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from chiasm.core.errors import SourceError
from chiasm.core.files import sync

STAMPS_HINT = "chiasm data pull stamps"
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Deb:
    """One pinned Debian package and the part of it that is wanted.

    Attributes:
        package: Debian's name, such as ``tuxpaint-stamps-default``.
        sha256: of the .deb file.
        prefix: folder inside the package whose files are kept, such as ``usr/share/tuxpaint/stamps``.
        suffixes: endings of the wanted files.
    """

    package: str
    sha256: str
    prefix: str
    suffixes: tuple[str, ...]

    def folder(self) -> Path | None:
        """Where its files lie already, in the system or in the cache; None when they don't."""
        installed = Path("/") / self.prefix
        if installed.is_dir() and any(installed.iterdir()):
            return installed
        kept = cache_folder() / "packs" / f"{self.package}-{self.sha256[:12]}"
        return kept if kept.is_dir() else None


def cache_folder() -> Path:
    """Where fetched data lives: ``$CHIASM_CACHE``, or ``~/.cache/chiasm``."""
    return Path(os.environ.get("CHIASM_CACHE") or Path.home() / ".cache" / "chiasm")


def deb_files(deb: Deb) -> Path:
    """The folder that stands for ``/<deb.prefix>``: the system's if installed, else fetched once into the cache.

    Args:
        deb: the pinned package.

    Returns:
        An existing folder with the package's wanted files.

    Raises:
        SourceError: the package can't be fetched, or its bytes are not the pinned ones.
    """
    if (here := deb.folder()) is not None:
        return here
    target = cache_folder() / "packs" / f"{deb.package}-{deb.sha256[:12]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        archive = _download(deb, Path(scratch))
        unpacked = Path(scratch) / "files"
        unpack_deb(archive, unpacked, prefix=deb.prefix, suffixes=deb.suffixes)
        try:
            unpacked.rename(target)
        except OSError:  # another process was first; its copy is as good
            if not target.is_dir():
                raise
    _sync(target.parent)
    return target


def unpack_deb(archive: Path, target: Path, *, prefix: str, suffixes: Sequence[str]) -> int:
    """Write the regular files of a .deb that lie below `prefix` and end in one of `suffixes`.

    Args:
        archive: the .deb file.
        target: folder to fill; made if missing. File names are relative to `prefix`.
        prefix: folder inside the package.
        suffixes: wanted endings, compared in lower case.

    Returns:
        How many files were written.

    Raises:
        SourceError: the file is not a .deb, or holds no wanted file.
    """
    data = next((body for name, body in _ar_members(archive) if name.startswith("data.tar")), None)
    if data is None:
        raise SourceError("not_a_deb", f"{archive.name} has no data.tar member", hint="fetch it again")
    written = 0
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as tar:
        for member in tar:
            name = PurePosixPath(member.name)  # "./usr/share/…" and "usr/share/…" normalise alike
            if not member.isreg() or name.is_absolute() or ".." in name.parts or "\\" in member.name:
                continue
            if not name.is_relative_to(prefix) or name.suffix.lower() not in suffixes:
                continue
            source = tar.extractfile(member)
            assert source is not None  # isreg
            path = target / name.relative_to(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            written += 1
    if written == 0:
        raise SourceError("empty_pack", f"{archive.name} has 0 files below {prefix}, expected at least 1")
    _sync(target)
    return written


def _ar_members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bodies of an ar archive's members."""
    with archive.open("rb") as file:
        if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
            raise SourceError("not_a_deb", f"{archive.name} doesn't begin as an ar archive does", hint="fetch it again")
        while header := file.read(_AR_HEADER):
            if len(header) < _AR_HEADER or header[58:60] != b"`\n" or not header[48:58].strip().isdigit():
                raise SourceError("not_a_deb", f"{archive.name} has a broken member header", hint="fetch it again")
            size = int(header[48:58])
            body = file.read(size)
            if len(body) != size:
                raise SourceError("not_a_deb", f"{archive.name} ends after {len(body)} of a member's {size} bytes")
            yield header[:16].decode("ascii", "replace").strip().rstrip("/"), body
            file.seek(size % 2, os.SEEK_CUR)  # members start on even offsets


def _download(deb: Deb, folder: Path) -> Path:
    """The .deb in `folder`: a pinned copy already in the cache, else through apt."""
    for kept in sorted((cache_folder() / "debs").glob(f"{deb.package}_*.deb")):
        if _sha256(kept) == deb.sha256:
            return kept
    command = ["apt-get", "download", deb.package]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    except FileNotFoundError as error:
        raise SourceError("no_apt", f"{deb.package} comes from a Debian mirror and apt-get is not here") from error
    except subprocess.TimeoutExpired as error:
        raise SourceError("pack_unreachable", f"{deb.package} did not arrive in 900 s") from error
    found = sorted(folder.glob(f"{deb.package}_*.deb"))
    if done.returncode != 0 or not found:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SourceError("pack_unreachable", f"apt-get download {deb.package} failed: {last}", hint="apt-get update")
    seen = _sha256(found[0])
    if seen != deb.sha256:
        raise SourceError("pack_changed", f"{found[0].name} has sha256 {seen[:12]}…, pinned is {deb.sha256[:12]}…")
    return found[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Make the names in `folder` and its files' bytes durable."""
    for path in folder.rglob("*") if folder.name == "files" else ():
        if path.is_file():
            sync(path)
    sync(folder)
