"""WordNet 3.0's words with their definitions and example sentences, from Debian's `wordnet-base`.

The files' format is wndb(5): a line a synset; the gloss stands behind the bar, definitions and quoted examples parted
by semicolons. WordNet's licence lets anyone use, copy, change and pass it on, with its notice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chiasm.data.debian import Deb, deb_files

WORDNET = Deb(
    package="wordnet-base",
    sha256="61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    prefix="usr/share/wordnet",
    suffixes=(".noun", ".verb", ".adj", ".adv"),
)
PARTS = {"data.noun": "noun", "data.verb": "verb", "data.adj": "adjective", "data.adv": "adverb"}
_MARKER = re.compile(r"\((?:a|p|ip)\)$")  # where an adjective stands, wninput(5)


@dataclass(frozen=True, slots=True)
class Entry:
    """One synset: its words, its part of speech, its definition, sentences that use it."""

    words: tuple[str, ...]
    part: str
    definition: str
    examples: tuple[str, ...]


def entries(folder: Path | None = None) -> Iterator[Entry]:
    """Every synset in the files' order.

    Args:
        folder: holds `data.noun` and its like; None = Debian's package, fetched when it isn't here.

    Raises:
        SourceError: the package can't be fetched.
    """
    folder = folder or deb_files(WORDNET)
    for name, part in PARTS.items():
        with (folder / name).open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if not line.startswith("  "):  # the licence
                    yield _entry(line, part)


def _entry(line: str, part: str) -> Entry:
    fields, _, gloss = line.partition("|")
    values = fields.split()
    count = int(values[3], 16)
    words = tuple(_MARKER.sub("", values[4 + 2 * i]).replace("_", " ") for i in range(count))
    said = [piece.strip() for piece in re.split(r";\s*(?=\")|(?<=\")\s*;\s*", gloss.strip())]
    examples = tuple(piece.strip('" ') for piece in said if piece.startswith('"'))
    definition = "; ".join(piece for piece in said if piece and not piece.startswith('"'))
    return Entry(words, part, definition, tuple(example for example in examples if example))
