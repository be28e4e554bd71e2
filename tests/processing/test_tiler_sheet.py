"""The picture of the tilers' page: every tiler's crops are on it, in their places."""

from chiasm.processing.dynamic_tilers import DynamicTiles, HDTransform
from chiasm.processing.tiler_sheet import PANEL, _laid_out, _shown, card, sheet
from chiasm.processing.tiler_table import TILERS


def test_every_tiler_has_a_panel_with_something_on_it() -> None:
    shown = sheet(card((480, 270)))
    columns = shown.width // PANEL[0]
    for number in range(len(TILERS)):
        row, column = divmod(number, columns)
        corner = (column * PANEL[0], row * PANEL[1] + 28)
        panel = shown.crop((*corner, corner[0] + PANEL[0], corner[1] + PANEL[1] - 28))
        assert len(panel.getcolors(1 << 20)) > 50, number


def test_tiles_stand_in_their_grid_and_the_whole_picture_beside_them() -> None:
    picture = card((480, 270))
    for tiler, whole in ((DynamicTiles(side=56, patch=28), -1), (HDTransform(side=56, max_tiles=6), 0)):
        plan = tiler.plan(picture.size)
        crops = [_shown(crop) for crop in tiler.render(picture, plan)]
        assert len(crops) == plan.grid[0] * plan.grid[1] + 1
        laid = _laid_out(crops, plan)
        assert laid.crop((0, 0, 56, 56)).tobytes() == crops[whole].tobytes()
        last = crops[-1] if whole == 0 else crops[-2]
        assert laid.crop((laid.width - 56, laid.height - 56, laid.width, laid.height)).tobytes() == last.tobytes()
