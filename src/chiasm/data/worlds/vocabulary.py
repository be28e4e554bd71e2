"""The names of things that scenes show, each with the real pictures that carry it.

`vocabulary.tsv` has one name a line: `singular[/plural]`, a tab, then pictures, each an OpenMoji code
(`1F408`) or the path of a Tux Paint stamp (`animals/mammals/dogs/dog`). Several pictures may share a name.
About one picture in six, never a name's last, is unseen: only the `unseen` split draws it, so naming it
is naming a new picture of a known thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files

SPLITS = ("train", "val", "test", "unseen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Noun:
    """One name, with its pictures split into the seen ones and the unseen ones."""

    name: str
    plural: str
    seen: tuple[str, ...]
    unseen: tuple[str, ...]

    def pictures(self, split: str) -> tuple[str, ...]:
        """The picture keys that `split` may draw; empty when the split has none of this name."""
        return self.unseen if split == "unseen" else self.seen

    @property
    def with_article(self) -> str:
        """The singular with `a` or `an`; a name that is its own plural in -s (scissors, jeans) takes `some`."""
        if self.name == self.plural and self.name.endswith("s"):
            return f"some {self.name}"
        return f"{'an' if self.name[0] in 'aeio' or self.name == 'umbrella' else 'a'} {self.name}"


@cache
def nouns() -> tuple[Noun, ...]:
    """Every name of the vocabulary, in the file's order."""
    lines = files("chiasm.data.worlds").joinpath("vocabulary.tsv").read_text("utf-8").splitlines()
    return tuple(_parse(line) for line in lines if line and not line.startswith("#"))


@cache
def nouns_of(split: str) -> tuple[Noun, ...]:
    """The names that have at least one picture in `split`."""
    return tuple(noun for noun in nouns() if noun.pictures(split))


def share(*parts: str) -> float:
    """A number in [0, 1) that depends on `parts` alone; it decides every split."""
    return int.from_bytes(sha256("\x1f".join(parts).encode()).digest()[:6]) / 2**48


def held_out_pair(a: str, b: str) -> bool:
    """Whether two names may stand together in test scenes only; symmetric, about one pair in eight."""
    return a != b and share("pair", *sorted((a, b))) < 0.125


def _parse(line: str) -> Noun:
    head, pictures = line.split("\t")
    name, _, plural = head.partition("/")
    keys = sorted(pictures.split(), key=lambda key: share("picture", key))
    count = sum(share("picture", key) < 1 / 6 for key in keys)
    cut = min(count, len(keys) - 1)
    return Noun(name=name, plural=plural or _plural(name), seen=tuple(keys[cut:]), unseen=tuple(keys[:cut]))


def _plural(name: str) -> str:
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")
