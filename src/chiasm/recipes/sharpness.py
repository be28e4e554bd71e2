"""Small things in large pictures: shrunk to the tower's square, in tiles, or seen whole, for the same visual tokens.

One frozen tower (EfficientNet-Lite0), one frozen language model (pico-text), one affine map between them, 49 visual
tokens a picture; how many pixels the tower gets, and in how many pieces, is all that differs. With twice the pixels a
side, four neighbouring cells are one token. ``chiasm compare`` with the three names makes the table
(`docs/results.md`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from chiasm.recipes.bridges import Bridged, Eye
from chiasm.recipes.connectors import NEEDS, linear_cells
from chiasm.recipes.run import Run, Source, recipe

SMALL = "scenes:train:small?size=112&nouns=12&count=600"  # pictures of 448 pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharp(Bridged):
    """The joined model with a choice of pixels.

    Attributes:
        side: pixels of a picture's side.
        tile, merge: see `CellTowerConfig`.
    """

    connector: str = "linear"
    tower: str = "efficientnet_lite0"
    side: int = 448
    tile: int | None = None
    merge: int = 2

    def eye(self) -> Eye:
        from chiasm.weights.frozen import cell_tower

        cells = cell_tower(self.tower, self.side, tile=self.tile, merge=self.merge)
        return Eye(cells.config, {"vision": cells})


def _sharp(model: Sharp) -> Run:
    return replace(linear_cells(), model=model, data=(Source(name=SMALL),), steps=200, batch_size=16)


@recipe(family="palme", scale="pico", needs=NEEDS)
def shrunk_cells() -> Run:
    """The picture shrunk to the 224 pixels that the tower was trained at."""
    return _sharp(Sharp(side=224, merge=1))


@recipe(family="palme", scale="pico", needs=NEEDS)
def tiled_cells() -> Run:
    """Four tiles of 224 pixels, each seen by itself."""
    return _sharp(Sharp(tile=224))


@recipe(family="palme", scale="pico", needs=NEEDS)
def whole_cells() -> Run:
    """448 pixels seen whole, as towers at native resolution do."""
    return _sharp(Sharp())
