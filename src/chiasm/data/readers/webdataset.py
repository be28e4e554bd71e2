"""WebDataset tar shards: members that share a name up to the first dot of its last part make one sample.

Sizes up to any number of shards: each has an index (`data.tars`), so every sample is one read away and nothing is
streamed. Members of a sample are joined wherever they stand in their shard, so interleaved samples are whole. Where a
key, or a member of one, stands twice, the first is the sample and every further one a fault. A member that is no
regular file, leads out of its folder or is cut makes its whole sample a fault. Members of other kinds are left alone
(`.pyd`, `.pth` and the like are never opened), and so are names that begin with `__`.

A sample is its pictures with a text (`txt`, `text`, `caption`), a class (`cls`) or a `json` record of any form that
`data.formats` knows; the record names its pictures by their endings (`0.jpg`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart
from chiasm.core.samples import Place
from chiasm.data.formats import Options, Reading, Shape, readers
from chiasm.data.pictures import SUFFIXES, PictureFinder
from chiasm.data.rows import Content, Fault, Rows, blank
from chiasm.data.stamps import digest_of
from chiasm.data.strict_json import decode, parse_json
from chiasm.data.tars import Member, TarMember, shown, tar_index

_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_ANY_NAME = re.compile(r"(.*)\.([^./\\]+)", re.DOTALL)  # members of a sample with unsafe names make one fault
_TEXTS = ("txt", "text", "caption")
_TEXT_LIMIT = 16 * 2**20  # bytes of one text or record


@dataclass(slots=True)
class _Group:
    """The members of one sample, by ending."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def start(self) -> int:
        return min(member.header for member in self.members.values())

    def fault(self) -> tuple[str, str] | None:
        return next((member.fault for member in self.members.values() if member.fault), None)

    def has_picture(self) -> bool:
        return any(is_picture(ending) for ending in self.members)

    def has_text(self) -> bool:
        return any(ending in (*_TEXTS, "json", "cls") for ending in self.members)


def is_picture(ending: str) -> bool:
    """Whether a member's ending (`jpg`, `0.png`) is a picture's."""
    return "." + ending.rpartition(".")[2] in SUFFIXES


class ShardRows(Rows):
    """The samples of one or more shards, in the order of the shards and of each sample's first member.

    Args:
        paths: the shards.
        options: `images` and `columns` don't apply; pictures stand in the shards.
    """

    def __init__(self, paths: Sequence[Path], options: Options | None = None) -> None:
        del options
        self.paths = [str(path) for path in paths]
        self.name = paths[0].stem if len(paths) == 1 else f"{len(paths)} shards from {paths[0].stem}"
        self._labels = _labels(paths)
        groups: list[tuple[int, _Group]] = []
        faults: list[Fault] = []
        digests = []
        for shard, path in enumerate(paths):
            index = tar_index(path)
            digests.append(index.digest)
            found, lost = _grouped(index.members)
            groups += [(shard, group) for group in found]
            faults += [Fault(Place(str(path), shown(key), offset), code, why) for key, offset, code, why in lost]
        texts = any(group.has_text() for _, group in groups)
        pictures = any(group.has_picture() for _, group in groups)
        last = dict(groups)
        self._groups: list[tuple[int, str, tuple[tuple[str, int, int], ...]]] = []
        for shard, group in groups:
            why = None
            if pictures and not group.has_picture() and "json" not in group.members:
                why = "no picture"
            elif texts and not group.has_text():
                why = "no text"
            if why:
                endings = ", ".join(sorted(group.members))
                place = Place(self.paths[shard], group.key, group.start)
                if last[shard] is group:  # a shard that ends in a header without a name: this is what it cut
                    faults = [each for each in faults if not _is_end_of(each, self.paths[shard])]
                faults.append(Fault(place, "sample_incomplete", f"the sample has {why}, only {endings}"))
            else:
                members = tuple((ending, each.offset, each.size) for ending, each in group.members.items())
                self._groups.append((shard, group.key, members))
        order = {path: number for number, path in enumerate(self.paths)}
        faults.sort(key=lambda fault: (order[fault.place.source], fault.place.offset or 0))
        self.faults = tuple(faults)
        self.fingerprint = digest_of("webdataset", *self._labels, *digests)

    def __len__(self) -> int:
        return len(self._groups)

    def place(self, index: int) -> Place:
        """Where row `index` stands: shard, key, and the byte of its first member's content."""
        shard, key, members = self._groups[index]
        return Place(self.paths[shard], key, min(offset for _, offset, _ in members))

    def key(self, index: int) -> str:
        """The shard's name and the sample's key."""
        shard, key, _ = self._groups[index]
        return f"{self._labels[shard]}/{key}"

    def content(self, index: int) -> Content:
        """Row `index`."""
        shard, key, members = self._groups[index]
        files = {ending: TarMember(self.paths[shard], f"{key}.{ending}", at, size) for ending, at, size in members}
        pictures = {ending: file for ending, file in files.items() if is_picture(ending)}
        record = _record(files["json"]) if "json" in files else {}
        finder = PictureFinder(
            (), {**files, **{f"{key.rpartition('/')[2]}.{ending}": f for ending, f in files.items()}}
        )
        shape = _special(record)
        if shape is not None:
            named = any(record.get(name) for name in ("image", "images"))
            if pictures and not named and shape.name == "conversations":
                record = {**record, "images": list(pictures)}
            return shape.read(record, Reading(find=finder))
        return _pair(record, pictures, files)


def _is_end_of(fault: Fault, path: str) -> bool:
    return fault.code == "tar_truncated" and fault.place.source == path and str(fault.place.row).startswith("byte ")


def _pair(record: Mapping[str, Any], pictures: Mapping[str, TarMember], files: Mapping[str, TarMember]) -> Content:
    """A sample whose text is a member of its own, or stands in a record with a question or a caption."""
    texts = [_text(files[ending]) for ending in _TEXTS if ending in files]
    general = next(reader for reader in readers() if isinstance(reader, Shape) and reader.general)
    listed = {**record, "image": list(pictures)}
    if not texts and pictures and general.fits(listed):
        listed = {name: value for name, value in record.items() if not _names_a_picture(name)}
        return general.read({**listed, "image": list(pictures)}, Reading(find=PictureFinder((), pictures)))
    annotations = {name: value for name, value in record.items() if value is not None}
    if "cls" in files:
        annotations["label"] = _label(_text(files["cls"]))
    if not pictures:
        raise DataError("picture_missing", f"the sample has no picture, only {', '.join(files)}")
    if texts and blank(texts[0]):
        raise DataError("caption_empty", "the sample's text holds no visible character")
    turns = [Message("user", tuple(ImagePart(picture) for picture in pictures.values()))]
    words = texts or ([str(annotations["label"])] if "label" in annotations else [])
    if words:
        turns.append(Message("assistant", (TextPart(words[0].strip("\r\n")),)))
    return Content(
        conversation=Conversation(tuple(turns)),
        captions=tuple(text.strip("\r\n") for text in texts),
        annotations=annotations,
    )


def _names_a_picture(name: str) -> bool:
    from chiasm.data.readers.pairs import ROLES

    return name.lower() in (*ROLES["image"], "url", "image_url", "img_url")


def _special(record: Mapping[str, Any]) -> Shape | None:
    shapes = [reader for reader in readers() if isinstance(reader, Shape) and not reader.general]
    return next((shape for shape in shapes if record and shape.fits(record)), None)


def _record(member: TarMember) -> Mapping[str, Any]:
    value = parse_json(_bytes(member), member.member)
    if not isinstance(value, dict):
        raise DataError("row_malformed", f"{member.member} holds a {type(value).__name__}, not an object")
    return value


def _text(member: TarMember) -> str:
    return decode(_bytes(member), member.member)


def _bytes(member: TarMember) -> bytes:
    if member.size > _TEXT_LIMIT:
        raise DataError("row_too_large", f"{member.member} has {member.size:,} bytes, the limit is {_TEXT_LIMIT:,}")
    return member.read_bytes(_TEXT_LIMIT)


def _label(text: str) -> int | str:
    return int(text) if re.fullmatch(r"\s*\d{1,18}\s*", text) else text.strip()


def _grouped(members: Sequence[Member]) -> tuple[list[_Group], list[tuple[str, int, str, str]]]:
    """Samples in the order of their first members, and faults as (key, offset, code, reason)."""
    groups: dict[str, list[_Group]] = {}
    lost: list[tuple[str, int, str, str]] = []
    for member in members:
        match = _NAME.fullmatch(member.name) or (_ANY_NAME.fullmatch(member.name) if member.fault else None)
        if match is None:
            if member.fault:
                lost.append((member.name or f"byte {member.header}", member.header, *member.fault))
            continue  # no ending, or hidden: no part of any sample
        key, ending = match.group(1), match.group(2).lower()
        if key.rpartition("/")[2].startswith("__"):
            continue
        own = groups.setdefault(key, [])
        group = next((group for group in own if ending not in group.members), None)
        if group is None:
            own.append(group := _Group(key))
        group.members[ending] = member
    found = []
    for key, own in groups.items():
        first = own[0]
        if fault := first.fault():
            lost.append((key, first.start, *fault))
        elif first.has_picture() or first.has_text():
            found.append(first)
        for further in own[1:]:
            again = ", ".join(sorted(further.members))
            lost.append((key, further.start, "sample_duplicate", f"the key stands in its shard again, with {again}"))
    return sorted(found, key=lambda group: group.start), lost


def _labels(paths: Sequence[Path]) -> list[str]:
    """A short name for each shard: its stem, or its path from the folder they share where stems are equal."""
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    common = os.path.commonpath([str(path.parent) for path in paths])
    labels = [os.path.splitext(os.path.relpath(path, common))[0] for path in paths]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise DataError(
            "shard_duplicate", f"the shard {twice} is named {labels.count(twice)} times", hint="name it once"
        )
    return labels
