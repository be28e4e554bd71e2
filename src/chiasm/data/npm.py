"""An npm package of icons without npm: one download from the registry, a pinned hash, and one SVG file an icon.

Icons as Iconify packs them: `icons.json` holds the bodies of all drawings of one hand, `chars.json`, where there is
one, the code points that they stand for. Nothing else of the archive is read, links and long members are left out, and
a name that isn't plain is no file's name, so nothing can land outside the target. The finished folder appears in one
rename.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiasm.core.errors import SourceError
from chiasm.core.files import sync
from chiasm.data.debian import cache_folder

REGISTRY = "https://registry.npmjs.org"  # npm's own default
CODES = "chars.json"  # code points → icon names, in the package and in the folder
_MOST_BYTES = 64 * 2**20  # of an archive
_MOST_UNPACKED = 256 * 2**20  # of one member
_SECONDS = 300
_ICON = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Npm:
    """One pinned npm package of icons.

    Attributes:
        package: npm's name, such as ``@iconify-json/noto``.
        version: of the package.
        sha256: of its archive.
    """

    package: str
    version: str
    sha256: str

    @property
    def archive(self) -> str:
        """The archive's name in the registry, such as ``noto-1.2.9.tgz``."""
        return f"{self.package.rpartition('/')[2]}-{self.version}.tgz"

    def folder(self) -> Path | None:
        """Where its files lie already; None when they don't."""
        kept = self.kept
        return kept if kept.is_dir() else None

    @property
    def kept(self) -> Path:
        """Its folder in the cache."""
        return cache_folder() / "packs" / f"{self.archive.removesuffix('.tgz')}-{self.sha256[:12]}"


def npm_files(npm: Npm) -> Path:
    """The folder of a package's icons, ``<name>.svg`` each, fetched once into the cache.

    Args:
        npm: the pinned package.

    Raises:
        SourceError: the package can't be fetched, its bytes are not the pinned ones, or it holds no icons.
    """
    if (here := npm.folder()) is not None:
        return here
    npm.kept.parent.mkdir(parents=True, exist_ok=True)
    data = _archive(npm)
    seen = hashlib.sha256(data).hexdigest()
    if seen != npm.sha256:
        raise SourceError("pack_changed", f"{npm.archive} has sha256 {seen[:12]}…, pinned is {npm.sha256[:12]}…")
    with tempfile.TemporaryDirectory(dir=npm.kept.parent, prefix=".fetch-") as scratch:
        unpacked = Path(scratch) / "files"
        unpack_icons(data, unpacked)
        try:
            unpacked.rename(npm.kept)
        except OSError:  # another process was first; its copy is as good
            if not npm.kept.is_dir():
                raise
    sync(npm.kept.parent)
    return npm.kept


def unpack_icons(data: bytes, target: Path) -> int:
    """Write the icons of a package's archive as SVG files, and its table of code points.

    Args:
        data: the archive, a gzipped tar.
        target: folder to make.

    Returns:
        How many icons were written.

    Raises:
        SourceError: the archive holds no icons.
    """
    members = dict(_members(data, ("package/icons.json", f"package/{CODES}")))
    icons = members.get("package/icons.json", {})
    drawn = {name: icon for name, icon in icons.get("icons", {}).items() if _ICON.fullmatch(name)}
    if not drawn:
        raise SourceError("empty_pack", "the package has 0 icons, expected at least 1")
    target.mkdir(parents=True)
    for name, icon in drawn.items():
        path = target / f"{name}.svg"
        path.write_text(svg(icon, icons), encoding="utf-8")
        sync(path)
    path = target / CODES
    path.write_text(json.dumps(members.get(f"package/{CODES}", {})), encoding="utf-8")
    sync(path)
    sync(target)
    return len(drawn)


def svg(icon: dict[str, Any], icons: dict[str, Any]) -> str:
    """An icon as an SVG document; the set says what the icon leaves out."""
    left, top = (icon.get(side, icons.get(side, 0)) for side in ("left", "top"))
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    box = f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}"'
    return f"<svg {names} {box}>{icon['body']}</svg>\n"


def registry(package: str) -> str:
    """The registry that npm's configuration names for a package: its scope's, else everybody's, else npm's own."""
    scope = package.partition("/")[0]
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        if os.environ.get(name):
            return os.environ[name].rstrip("/")
    told = Path(os.environ.get("NPM_CONFIG_USERCONFIG") or Path.home() / ".npmrc")
    lines = told.read_text(encoding="utf-8", errors="replace").splitlines() if told.is_file() else []
    pairs = (line.partition("=") for line in lines)
    settings = {key.strip(): value.strip() for key, _, value in pairs}
    return (settings.get(f"{scope}:registry") or settings.get("registry") or REGISTRY).rstrip("/")


def _archive(npm: Npm) -> bytes:
    """The archive: a copy in the cache's folder `npm`, else from the registry."""
    kept = cache_folder() / "npm" / npm.archive
    if kept.is_file():
        return kept.read_bytes()
    address = f"{registry(npm.package)}/{npm.package}/-/{npm.archive}"
    if not address.startswith(("https://", "http://")):
        raise SourceError("pack_unreachable", f"npm's registry is {address.partition(':')[0]!r}, expected https")
    try:
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:
            data: bytes = answer.read(_MOST_BYTES + 1)
    except (OSError, urllib.error.URLError) as error:
        hint = f"npm pack {npm.package}@{npm.version} elsewhere, and its {npm.archive} into {kept.parent}"
        raise SourceError("pack_unreachable", f"{npm.archive} can't be fetched: {error}", hint=hint) from error
    if len(data) > _MOST_BYTES:
        raise SourceError("pack_changed", f"{npm.archive} has more than {_MOST_BYTES} bytes")
    return data


def _members(data: bytes, wanted: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The wanted JSON members of a gzipped tar."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            for member in tar:
                if member.isreg() and member.name in wanted and member.size <= _MOST_UNPACKED:
                    source = tar.extractfile(member)
                    assert source is not None  # isreg
                    yield member.name, json.load(source)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise SourceError("empty_pack", f"the package's archive can't be read: {error}") from error
