"""A pack of real pictures with captions as a data set, split by identity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from chiasm.core.errors import ConfigError
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart
from chiasm.core.samples import Place, Sample
from chiasm.data.packs import Picture, load_pack

if TYPE_CHECKING:
    from PIL import Image

SPLITS = ("train", "val", "test")
SIZE = 320  # pixels of the longer side


@dataclass(frozen=True, slots=True)
class PackPicture:
    """A `LazyPicture`: a pack's picture on white, its longer side at most `size` pixels."""

    record: Picture
    size: int = SIZE

    @property
    def fingerprint(self) -> str:
        """Equal for equal pixels: the pack is pinned, so its key and the size say it all."""
        return sha256(f"pack 1 {self.record.key} {self.size}".encode()).hexdigest()

    def picture(self) -> Image.Image:
        """Open it."""
        return self.record.open(self.size)

    def words(self) -> str:
        """Its caption."""
        return self.record.caption


class PackDataset:
    """A `Dataset` of bare pairs: a picture, and its caption as the assistant's words.

    Args:
        pack: `stamps`, `clipart` or `openmoji`; fetched when it isn't here.
        split: `train`, `val` or `test`, by identity: variants of one thing never part.
        count: keep the first so many rows; None = all.

    Raises:
        ConfigError: no pack or split of that name.
        SourceError: the pack can't be fetched.
    """

    def __init__(self, pack: str, split: str = "train", count: int | None = None) -> None:
        if split not in SPLITS:
            raise ConfigError("split_unknown", f"split {split!r}; packs have {', '.join(SPLITS)}")
        pictures = [picture for picture in load_pack(pack) if picture.split == split]
        # A fixed order in which neighbours have nothing to do with each other; the first rows are a fair sample.
        pictures.sort(key=lambda picture: sha256(picture.key.encode()).digest())
        self.pictures = pictures[:count]
        self.split, self.name = split, f"{pack}:{split}"
        said = "\n".join(f"{picture.key}\t{picture.caption}" for picture in self.pictures)
        self.fingerprint = sha256(f"1 {self.name}\n{said}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """Row `index`; its picture is opened when it is read."""
        if not 0 <= index < len(self.pictures):
            raise IndexError(f"row {index} of {len(self.pictures)}")
        record = self.pictures[index]
        pair = (
            Message("user", (ImagePart(PackPicture(record)),)),
            Message("assistant", (TextPart(record.caption),)),
        )
        annotations = {
            "kind": "caption",
            "answers": (record.caption,),
            "split": self.split,
            "name": record.label,
            "identity": record.identity,
            "group": record.group,
            "keywords": record.keywords,
            "medium": record.kind,
        }
        return Sample(
            key=record.key,
            conversation=Conversation(pair),
            place=Place(self.name, index),
            captions=(record.caption,),
            annotations=annotations,
        )
