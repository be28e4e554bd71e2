"""Fifty broken tar shards from a seed, each with what a careful reader must make of it.

The expectation is computed from the damage as it is done, never by reading the result.
"""

from __future__ import annotations

import io
import random
import tarfile
from dataclasses import dataclass, field

from PIL import Image

BLOCK = 512


@dataclass
class Shard:
    """The bytes of a shard, the keys that are good in it, and (key, code) of everything else."""

    data: bytes
    good: list[str]
    report: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Piece:
    """One member: its name, its content, and the header's fields that differ from a regular file's."""

    name: str
    data: bytes
    kind: bytes = tarfile.REGTYPE
    declared: int | None = None
    broken_header: bool = False

    def to_bytes(self) -> bytes:
        info = tarfile.TarInfo(self.name)
        info.type, info.linkname = self.kind, "/etc/passwd" if self.kind == tarfile.SYMTYPE else ""
        info.size = (len(self.data) if self.declared is None else self.declared) if self.kind == tarfile.REGTYPE else 0
        header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        if self.broken_header:  # the size field is noise; its checksum no longer fits
            header = header[:124] + b"junkjunkjunk" + header[136:]
        if self.kind != tarfile.REGTYPE:
            return header
        return header + self.data + b"\0" * (-len(self.data) % BLOCK)


def picture(seed: int) -> bytes:
    """A small JPEG, different for every seed."""
    noise = random.Random(seed)
    image = Image.frombytes("RGB", (6, 5), noise.randbytes(90)).resize((24, 20))
    data = io.BytesIO()
    image.save(data, "JPEG")
    return data.getvalue()


def samples(rng: random.Random, shard: int) -> list[list[Piece]]:
    """Four to nine good samples of two members."""
    return [
        [
            Piece(f"{shard:02d}{number:03d}.jpg", picture(rng.randrange(10**9))),
            Piece(f"{shard:02d}{number:03d}.txt", f"caption {shard} {number} ü".encode()),
        ]
        for number in range(rng.randint(4, 9))
    ]


def key_of(sample: list[Piece]) -> str:
    return sample[0].name.partition(".")[0]


def build(groups: list[list[Piece]], good: list[str], report: list[tuple[str, str]], tail: int = 2) -> Shard:
    body = b"".join(piece.to_bytes() for group in groups for piece in group)
    return Shard(body + b"\0" * BLOCK * tail, good, report)


def truncated(rng: random.Random, groups: list[list[Piece]]) -> Shard:
    """Cut at a random byte: headers, contents and padding are all hit over many seeds."""
    whole = build(groups, [], [])
    cut = rng.randrange(1, sum(len(piece.to_bytes()) for group in groups for piece in group))
    good, report, position = [], [], 0
    for group in groups:
        states = []
        for piece in group:
            begin, content = position, position + BLOCK + len(piece.data)
            position += len(piece.to_bytes())
            if content <= cut:
                states.append("whole")
            elif begin + BLOCK <= cut:
                states.append("member_truncated")
            elif begin < cut:  # in the header: its name is known once the byte that ends it is there
                states.append("tar_truncated" if begin + len(piece.name) < cut else f"byte {begin}")
        lost = [state for state in states if state != "whole"]
        if states == ["whole", "whole"]:
            good.append(key_of(group))
        elif lost and not lost[0].startswith("byte"):
            report.append((key_of(group), lost[0]))
        elif "whole" in states:
            report.append((key_of(group), "sample_incomplete"))
        elif lost:
            report.append((lost[0], "tar_truncated"))
    return Shard(whole.data[:cut], good, report)


def interleaved(rng: random.Random, groups: list[list[Piece]]) -> Shard:
    """Members in random order: every sample is still whole."""
    pieces = [piece for group in groups for piece in group]
    rng.shuffle(pieces)
    seen = dict.fromkeys(piece.name.partition(".")[0] for piece in pieces)
    return build([pieces], list(seen), [])


def duplicated(rng: random.Random, groups: list[list[Piece]]) -> Shard:
    """A sample, and a member of another, stand twice; the first of each is the sample."""
    again, other = rng.sample(groups, 2)
    late = [
        Piece(piece.name, picture(rng.randrange(10**9)) if piece.name.endswith("jpg") else b"late") for piece in again
    ]
    order = [*groups, late, [Piece(other[0].name, picture(rng.randrange(10**9)))]]
    report = [(key_of(again), "sample_duplicate"), (key_of(other), "sample_duplicate")]
    return build(order, [key_of(group) for group in groups], report)


def escaping(rng: random.Random, groups: list[list[Piece]]) -> Shard:
    """Names that lead out of the folder."""
    bad = rng.choice(groups)
    prefix = rng.choice(("../", "/etc/", "a/../../", "..\\"))
    for piece in bad:
        piece.name = prefix + piece.name
    return build(groups, [key_of(g) for g in groups if g is not bad], [(key_of_named(bad), "name_unsafe")])


def key_of_named(group: list[Piece]) -> str:
    head, _, tail = group[0].name.rpartition("/")
    return (head + "/" if head or group[0].name.startswith("/") else "") + tail.rpartition(".")[0]


def undecodable_text(rng: random.Random, groups: list[list[Piece]]) -> Shard:
    """A caption that is not UTF-8."""
    bad = rng.choice(groups)
    bad[1].data = b"caf\xe9 " + rng.randbytes(3)
    return build(groups, [key_of(g) for g in groups if g is not bad], [(key_of(bad), "text_encoding")])


def undecodable_name(rng: random.Random, groups: list[list[Piece]]) -> Shard:
    """Names that are not UTF-8."""
    bad = rng.choice(groups)
    for piece in bad:
        piece.name = "caf\udce9" + piece.name
    good = [key_of(g) for g in groups if g is not bad]
    return build(groups, good, [("caf\\xe9" + bad[0].name[4:].partition(".")[0], "name_encoding")])


def linked(rng: random.Random, groups: list[list[Piece]]) -> Shard:
    """A picture that is a symbolic link or a device."""
    bad = rng.choice(groups)
    bad[0].kind = rng.choice((tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE))
    return build(groups, [key_of(g) for g in groups if g is not bad], [(key_of(bad), "member_special")])


def oversized(rng: random.Random, groups: list[list[Piece]]) -> Shard:
    """A header that declares far more than there is; what follows it is still good."""
    bad = rng.choice(groups)
    bad[0].declared = rng.choice((2**33 - 1, 2**50, 2**70))
    return build(groups, [key_of(g) for g in groups if g is not bad], [(key_of(bad), "member_truncated")])


def damaged_header(rng: random.Random, groups: list[list[Piece]]) -> Shard:
    """A header whose checksum doesn't fit."""
    bad = rng.choice(groups)
    bad[rng.randrange(2)].broken_header = True
    return build(groups, [key_of(g) for g in groups if g is not bad], [(key_of(bad), "tar_damaged")])


def broken_picture(rng: random.Random, groups: list[list[Piece]]) -> Shard:
    """A picture whose file is cut, empty or something else; told when it is read."""
    bad = rng.choice(groups)
    cut, code = rng.choice(((60, "picture_truncated"), (0, "picture_empty")))
    bad[0].data = bad[0].data[:cut]
    return build(groups, [key_of(g) for g in groups if g is not bad], [(key_of(bad), code)])


def without_end(rng: random.Random, groups: list[list[Piece]]) -> Shard:
    """No empty blocks at the end, one, or many; and a sample whose caption is missing."""
    bad = rng.choice(groups)
    del bad[1]
    good = [key_of(g) for g in groups if g is not bad]
    return build(groups, good, [(key_of(bad), "sample_incomplete")], tail=rng.choice((0, 1, 20)))


DAMAGES = (
    truncated, interleaved, duplicated, escaping, undecodable_text, undecodable_name, linked, oversized,
    damaged_header, broken_picture, without_end,
)  # fmt: skip


def broken_shards(count: int = 50, seed: int = 0) -> list[Shard]:
    """Shards with one kind of damage each, every kind in turn; truncation as often as all others are few."""
    rng = random.Random(seed)
    kinds = [truncated if number % 3 == 0 else DAMAGES[number % len(DAMAGES)] for number in range(count)]
    return [kind(rng, samples(rng, number)) for number, kind in enumerate(kinds)]
