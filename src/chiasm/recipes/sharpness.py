"""Small things in large pictures: shrunk to the tower's square, in tiles, or seen whole, for the same visual tokens.

One frozen tower (EfficientNet-Lite0), one affine map, pico-text, 49 visual tokens a picture; how many pixels the tower
gets, and in how many pieces, is all that differs. With twice the pixels a side, four neighbouring cells are one token.
Each recipe has two stages of the same length in all three: the map learns alone, cell by cell, to say what is in a cell
and where (`objectives.spoken.SpokenCells`), then rests, and the language model learns to find the cell that is asked
for. ``chiasm compare`` with the three names makes the table (`docs/results.md`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from chiasm.data.collation import Cells, Conversations
from chiasm.recipes.bridges import Bridged, Eye
from chiasm.recipes.connectors import NEEDS, linear_cells
from chiasm.recipes.run import Run, Source, recipe
from chiasm.training.config import Group, Muon

SMALL = "scenes:train:small_names,small_signs?size=112&nouns=12&count=400"  # pictures of 448 pixels


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


def _sharp(model: Sharp, after: str) -> Run:
    return replace(
        linear_cells(),
        model=model,
        after=after,
        data=(Source(name=SMALL),),
        learn=("^language\\.",),
        collate=Conversations(pack=256, apart=True),
        steps=120,
        batch_size=16,
        optimizer=Muon(),
        groups=(Group(learning_rate=1e-3),),
        bf16=True,
    )


def _words(run: Run) -> Run:
    """The same, in which the connector alone learns what each cell is to say; no language model is run."""
    from chiasm.objectives.spoken import SpokenCells

    return replace(
        run,
        after=None,
        learn=("^connector\\.",),
        collate=Cells(),
        objective=SpokenCells(),
        steps=150,
        groups=(Group(learning_rate=3e-3, weight_decay=0.1),),
    )


@recipe(family="palme", scale="pico", needs=NEEDS)
def shrunk_cells() -> Run:
    """The picture shrunk to the 224 pixels that the tower was trained at."""
    return _sharp(Sharp(side=224, merge=1), "shrunk_cells_words")


@recipe(family="palme", scale="pico", needs=NEEDS)
def shrunk_cells_words() -> Run:
    """What comes before `shrunk_cells`, not counted in a comparison's budget."""
    return _words(shrunk_cells())


@recipe(family="palme", scale="pico", needs=NEEDS)
def tiled_cells() -> Run:
    """Four tiles of 224 pixels, each seen by itself."""
    return _sharp(Sharp(tile=224), "tiled_cells_words")


@recipe(family="palme", scale="pico", needs=NEEDS)
def tiled_cells_words() -> Run:
    """What comes before `tiled_cells`."""
    return _words(tiled_cells())


@recipe(family="palme", scale="pico", needs=NEEDS)
def whole_cells() -> Run:
    """448 pixels seen whole, as towers at native resolution do."""
    return _sharp(Sharp(), "whole_cells_words")


@recipe(family="palme", scale="pico", needs=NEEDS)
def whole_cells_words() -> Run:
    """What comes before `whole_cells`."""
    return _words(whole_cells())
