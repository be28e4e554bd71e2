"""What was found as one picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from chiasm.core.errors import ChiasmError
from chiasm.search.sheet import COLUMNS, GAP, LINE, MISSING, MOST, SIDE, draw


def test_pictures_stand_side_by_side_and_one_that_is_gone_leaves_its_place(tmp_path: Path) -> None:
    Image.new("RGB", (300, 600), (250, 0, 0)).save(tmp_path / "red.png")
    draw([(str(tmp_path / "red.png"), "red " * 40), (str(tmp_path / "gone.png"), "")], tmp_path / "deep" / "sheet.png")
    sheet = Image.open(tmp_path / "deep" / "sheet.png")
    assert sheet.size == (COLUMNS * (SIDE + GAP) + GAP, SIDE + LINE + 2 * GAP)
    assert sheet.getpixel((GAP + SIDE // 2, GAP + 1)) == (250, 0, 0)
    assert sheet.getpixel((2 * GAP + SIDE + 1, GAP + 1)) == MISSING


def test_what_no_sheet_can_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ChiasmError, match=f"sheet_too_large.*{MOST + 1} pictures"):
        draw([("gone.png", "")] * (MOST + 1), tmp_path / "sheet.jpg")
    with pytest.raises(ChiasmError, match=r"sheet_format.*'\.pdf'"):
        draw([], tmp_path / "sheet.pdf")
    assert not list(tmp_path.iterdir())
