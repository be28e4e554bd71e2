"""Nano-dual on held-out pictures, beside a blind control: ``python benchmarks/nano_dual.py [--model M] [--json]``.

Held out by identity (`chiasm.data.packs.split_of`): no training step saw these pictures or a variant of them.

- `things`: stamps and Unicode emoji that show something, one picture an identity, no caption twice. Left out are
  letters, digits, flags and other signs, and OpenMoji's own additions (brands, interface icons).
- `everything`: all stamps and emoji, one picture an identity, no caption twice.
- `photographs`: the photographs among held-out stamps; each is told from 12 labels, its own and 11 drawn from the
  others', as "a photo of a {label}".

Retrieval is by the caption alone. The blind control is the same model with every picture replaced by the mean of all
pictures of the row; ties are broken by chance.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from PIL import Image

import chiasm
from chiasm.data.packs import Picture, Split, load_pack

SIGNS = ("symbols", "flags", "component", "extras-unicode", "extras-openmoji")
HELD_OUT = "96fa8c81dc806fb82c71c94dfcb95606e692bb3cf731525c3db68e809cc4aa21"  # of the test split's things, in order
LABELS, DRAWS, SEED = 12, 20, 2026
SIDE = 260
_EMBEDDED: dict[str, torch.Tensor] = {}  # a picture stands in several rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table; shares in 0..1, `blind` those of the control."""

    task: str
    measure: str
    count: int
    value: float
    blind: float


def gallery(split: Split, *, everything: bool = False) -> list[Picture]:
    """Stamps and emoji of a split, one an identity, no caption twice."""
    identities: dict[str, Picture] = {}
    for picture in (*load_pack("stamps"), *load_pack("openmoji")):
        if picture.split == split and (everything or picture.group.split("/")[0] not in SIGNS):
            identities.setdefault(picture.identity, picture)
    return list({picture.caption.lower(): picture for picture in identities.values()}.values())


def plain(picture: Picture) -> Image.Image:
    """A picture on white, as a user would give it."""
    art = picture.open(320)
    square = Image.new("RGB", art.size, (255, 255, 255))
    square.paste(art, (0, 0), art)
    return square


def mean_picture(pictures: Sequence[Image.Image]) -> Image.Image:
    """The mean of pictures, each on a white square."""
    total = np.zeros((SIDE, SIDE, 3))
    for picture in pictures:
        side = max(picture.size)
        square = Image.new("RGB", (side, side), (255, 255, 255))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        total += np.asarray(square.resize((SIDE, SIDE)), dtype=np.float64)
    return Image.fromarray((total / len(pictures)).round().astype(np.uint8))


def recall(scores: torch.Tensor, k: int) -> float:
    """(N, N) scores, the diagonal true → how often the true one is among the k best, ties broken by chance."""
    true = scores.diag()[:, None]
    better, equal = (scores > true).sum(1), (scores == true).sum(1)
    return ((k - better) / equal).clamp(0, 1).mean().item()


def embedded(model: chiasm.Model, pictures: Sequence[Picture]) -> list[torch.Tensor]:
    """(N, E) of the pictures, and of the blind control."""
    seen = [plain(picture) for picture in pictures]
    new = [n for n, picture in enumerate(pictures) if picture.key not in _EMBEDDED]
    if new:
        vectors = model.embed_images([seen[n] for n in new])
        _EMBEDDED.update((pictures[n].key, vector) for n, vector in zip(new, vectors, strict=True))
    own = torch.stack([_EMBEDDED[picture.key] for picture in pictures])
    return [own, model.embed_images([mean_picture(seen)]).expand(len(pictures), -1)]


def retrieval(model: chiasm.Model, pictures: Sequence[Picture], task: str) -> list[Row]:
    """Recall both ways."""
    texts = model.embed_texts([picture.caption for picture in pictures], truncate=True)
    rows = []
    scores = [images @ texts.T for images in embedded(model, pictures)]
    for way, turn in (("picture→text", lambda s: s), ("text→picture", lambda s: s.T)):
        for k in (1, 5, 10):
            value, floor = (recall(turn(score), k) for score in scores)
            rows.append(Row(task=task, measure=f"{way} R@{k}", count=len(pictures), value=value, blind=floor))
    return rows


def photographs(model: chiasm.Model, pictures: Sequence[Picture]) -> list[Row]:
    """Telling photographs from 12 labels."""
    rng = random.Random(SEED)
    texts = model.embed_texts([f"a photo of a {picture.label}" for picture in pictures])
    scores = [images @ texts.T for images in embedded(model, pictures)]
    found: list[list[float]] = [[], []]
    for row, picture in enumerate(pictures):
        others = [n for n, other in enumerate(pictures) if other.label.lower() != picture.label.lower()]
        for _ in range(DRAWS):
            drawn = rng.sample(others, LABELS - 1)
            for kind, score in enumerate(scores):
                found[kind].append((score[row, drawn] > score[row, row]).sum().item())
    rows = []
    for k in (1, 3):
        value, floor = (sum(rank < k for rank in kind) / len(kind) for kind in found)
        rows.append(
            Row(task="photographs", measure=f"12 labels, top-{k}", count=len(pictures), value=value, blind=floor)
        )
    return rows


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano-dual", help="bundled name or folder")
    parser.add_argument("--split", default="test", choices=("test", "val"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    model = chiasm.load(given.model)
    things, all_pictures = gallery(given.split), gallery(given.split, everything=True)
    held_out = {p.identity: p for p in load_pack("stamps") if p.split == given.split and p.kind == "photo"}
    rows = [
        *retrieval(model, things, "things"),
        *retrieval(model, all_pictures, "everything"),
        *photographs(model, list(held_out.values())),
    ]
    listed = hashlib.sha256("\n".join(f"{thing.key} {thing.caption}" for thing in things).encode()).hexdigest()
    if given.split == "test" and listed != HELD_OUT:
        raise SystemExit(f"the held-out things are {listed}, figures elsewhere are of {HELD_OUT}")
    if given.json:
        table = {"model": given.model, "split": given.split, "rows": [asdict(row) for row in rows]}
        print(json.dumps(table, indent=2, ensure_ascii=False))
        return
    for row in rows:
        print(f"{row.task:12} {row.measure:20} n={row.count:4}  {row.value:6.1%}  blind {row.blind:6.1%}")


if __name__ == "__main__":
    main()
