"""A folder of pictures, each with its caption in a `.txt` of the same name; or in one folder a class.

`cat.jpg` and `cat.txt` make a row; each further line of the text is a further caption. Without any text, pictures in
subfolders have the folder's name as their label, and pictures in a flat folder are rows without words. Where some
pictures have a text, one without is a fault, unless the caller takes rows without words. Hidden files and folders are
left alone; links are followed only where they stay inside.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart
from chiasm.core.samples import Place
from chiasm.data.formats import Layout, Options
from chiasm.data.pictures import SUFFIXES, PictureFinder
from chiasm.data.rows import Content, Fault, Rows, blank
from chiasm.data.stamps import digest_of
from chiasm.data.strict_json import decode

_TEXT_LIMIT = 2**20


class FolderRows(Rows):
    """The pictures under a folder, by name."""

    def __init__(self, path: Path, options: Options | None = None) -> None:
        self._wordless = options is not None and options.wordless
        self.path, self.name = path, path.resolve().name
        self._find = PictureFinder([path])
        pictures, texts = _walk(path)
        twice = [stem for stem, names in pictures.items() if len(names) > 1 and stem in texts]
        faults = [
            Fault(
                Place(str(path), name), "sample_duplicate", f"{next(iter(pictures[stem]))} has the same text beside it"
            )
            for stem in twice
            for name in list(pictures[stem])[1:]
        ]
        shared = set(twice)
        names = sorted(
            (stem, name) for stem, own in pictures.items() for name in (list(own)[:1] if stem in shared else own)
        )
        self.labelled = not texts and any("/" in name for _, name in names)
        if texts and not self._wordless:
            faults += [
                Fault(Place(str(path), name), "caption_empty", "no .txt stands beside the picture")
                for stem, name in names
                if stem not in texts
            ]
            names = [(stem, name) for stem, name in names if stem in texts]
        if texts:
            faults += [
                Fault(Place(str(path), texts[stem][0]), "picture_missing", "no picture stands beside the text")
                for stem in sorted(texts.keys() - pictures.keys())
            ]
        self._rows = [(name, texts[stem][0] if stem in texts else None) for stem, name in names]
        self.faults = tuple(faults)
        if not self._rows and not faults:
            raise DataError("data_empty", f"{path} holds 0 pictures ({', '.join(SUFFIXES)})")
        sizes = {name: size for own in pictures.values() for name, size in own.items()}
        words = [_digest_text(path / texts[stem][0]) for stem in sorted(texts)]
        self.fingerprint = digest_of("folder", *(f"{name} {sizes[name]}" for name, _ in self._rows), *words)

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, index: int) -> Place:
        """Where row `index` stands: the folder and the picture's name in it."""
        return Place(str(self.path), self._rows[index][0])

    def key(self, index: int) -> str:
        """The picture's name in the folder."""
        return self._rows[index][0]

    def content(self, index: int) -> Content:
        """Row `index`."""
        name, text = self._rows[index]
        turns = [Message("user", (ImagePart(self._find(name)),))]
        captions: tuple[str, ...] = ()
        found: dict[str, Any] = {}
        if text is not None:
            captions = tuple(line.strip() for line in self._text(text).splitlines() if not blank(line))
            if not captions and not self._wordless:
                raise DataError("caption_empty", f"{text} holds no visible character")
            turns += [Message("assistant", (TextPart(caption),)) for caption in captions[:1]]
        elif self.labelled and "/" in name:
            found["label"] = name.rpartition("/")[0].rpartition("/")[2]
            turns.append(Message("assistant", (TextPart(found["label"]),)))
        return Content(conversation=Conversation(tuple(turns)), captions=captions, annotations=found)

    def _text(self, name: str) -> str:
        path = self._find(name)
        with open(path, "rb") as file:
            data = file.read(_TEXT_LIMIT + 1)
        if len(data) > _TEXT_LIMIT:
            raise DataError("row_too_large", f"{name} has more than {_TEXT_LIMIT:,} bytes")
        return decode(data, name)


def _walk(folder: Path) -> tuple[dict[str, dict[str, int]], dict[str, list[str]]]:
    """Pictures and texts by their name without ending: {stem: {name: bytes}} and {stem: [name]}."""
    pictures: dict[str, dict[str, int]] = {}
    texts: dict[str, list[str]] = {}
    waiting = [""]
    while waiting:
        at = waiting.pop()
        with os.scandir(folder / at) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = f"{at}/{entry.name}" if at else entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                    continue
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in SUFFIXES:
                    pictures.setdefault(stem, {})[name] = entry.stat(follow_symlinks=False).st_size
                elif suffix.lower() == ".txt":
                    texts.setdefault(stem, []).append(name)
    return {stem: dict(sorted(own.items())) for stem, own in pictures.items()}, texts


def _digest_text(path: Path) -> str:
    try:
        return path.read_bytes()[:_TEXT_LIMIT].hex() if path.is_file() else ""
    except OSError:
        return ""


def _fits(path: Path) -> bool:
    return path.is_dir()


READERS = (Layout(name="folder of pictures", fits=_fits, open=FolderRows),)
