"""docs/tilers.md shows what the command prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from chiasm.processing.tiler_table import table

PAGE = (Path(__file__).parents[2] / "docs" / "tilers.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("size", "tokens"), [((1920, 1080), None), ((1920, 1080), 1300), ((1240, 3508), None)])
def test_the_page_is_up_to_date(size, tokens) -> None:
    assert table(size, tokens) in PAGE
