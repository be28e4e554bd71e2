"""Places: written and read back in every style, read from what models really emit, the rest reported."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.core.plan import Crop, ImagePlan
from chiasm.processing.coordinates import GridBoxes, LocTokens, PercentPoints, PixelJson, Place

PLAN = ImagePlan((800, 400), (Crop((1008, 504), (0, 0), (1008, 504)),))
GRID = GridBoxes(question="{phrase}")
STYLES = {
    "list": (GRID, 0.8), "pairs": (GridBoxes(question="", form="pairs", before="<box>", after="</box>"), 0.8),
    "cogvlm": (GridBoxes(question="", digits=3), 0.8), "json": (PixelJson(question=""), 0.5),
    "loc": (LocTokens(question=""), 0.8),
}  # fmt: skip


@pytest.mark.parametrize("name", STYLES)
def test_boxes_come_back_within_a_cell(name) -> None:
    style, cell = STYLES[name]
    random = np.random.default_rng(0)
    for _ in range(50):
        x, y = sorted(random.uniform(0, 800, 2)), sorted(random.uniform(0, 400, 2))
        if x[1] - x[0] < 2 or y[1] - y[0] < 2:
            continue
        box = (x[0], y[0], x[1], y[1])
        found = style.read(style.write([Place(box=box), Place(box=(0, 0, 800, 400))], PLAN), PLAN)
        assert len(found.places) == 2 and not found.unread and not found.clipped
        assert all(abs(a - b) <= cell + 1e-6 for a, b in zip(found.places[0].box, box, strict=True))


def test_points_in_percent_come_back() -> None:
    style = PercentPoints(question="")
    places = [Place(point=(80.0, 40.0), label="cat"), Place(point=(400.0, 399.0), label="cat")]
    text = style.write(places, PLAN)
    assert text == '<points x1="10.0" y1="10.0" x2="50.0" y2="99.8" alt="cat">cat</points>'
    found = style.read(text, PLAN)
    assert [place.label for place in found.places] == ["cat", "cat"]
    for one, other in zip(found.places, places, strict=True):
        assert one.point == pytest.approx(other.point, abs=0.41)
    assert style.write(places[:1], PLAN) == '<point x="10.0" y="10.0" alt="cat">cat</point>'
    assert style.write([], PLAN).startswith("<points")


@pytest.mark.parametrize(
    ("text", "boxes", "points", "unread", "clipped"),
    [
        ("It is at [[100,200,300,400]].", [(80, 80, 240, 160)], [], 0, 0),
        ("[[100,200,300,400;500,500,600,600]]", [(80, 80, 240, 160), (400, 200, 480, 240)], [], 0, 0),
        ("<box>(100,200),(300,400)</box>", [(80, 80, 240, 160)], [], 0, 0),
        ("(100, 200), (300, 400)", [(80, 80, 240, 160)], [], 0, 0),
        ("[300, 400, 100, 200]", [(80, 80, 240, 160)], [], 0, 0),  # corners swapped
        ("[100.5, 200, 300, 400", [(80.4, 80, 240, 160)], [], 0, 0),  # not closed
        ("[900,900,1200,1300]", [(720, 360, 800, 400)], [], 0, 1),  # beyond the picture
        ("[-50,10,100,100]", [(0, 4, 80, 40)], [], 0, 1),
        ("(500,500)", [], [(400, 200)], 0, 0),
        ("[1,2,3] and [5,5,5,9]", [], [], 2, 0),  # three numbers; an empty box
        ("nothing here, see [1]", [], [], 1, 0),
        ("no places at all", [], [], 0, 0),
        ("", [], [], 0, 0),
    ],
)
def test_grids_as_models_write_them(text, boxes, points, unread, clipped) -> None:
    found = GRID.read(text, PLAN)
    assert [place.box for place in found.places if place.box] == [pytest.approx(box) for box in boxes]
    assert [place.point for place in found.places if place.point] == [pytest.approx(point) for point in points]
    assert (len(found.unread), found.clipped) == (unread, clipped)


@pytest.mark.parametrize(
    ("text", "labels", "unread"),
    [
        ('```json\n[\n\t{"bbox_2d": [126, 63, 252, 126], "label": "cat"}\n]\n```', ["cat"], 0),
        ('[{"bbox_2d": [126, 63, 252, 126], "label": "cat"}, {"bbox_2d": [1, 2, 30', ["cat"], 1),  # cut short
        ('{"point_2d": [126, 63], "label": "eye"},', ["eye"], 0),
        ('{"bbox_2d": "left", "label": "cat"}', [], 1),
        ("126,63 is where [126, 63, 252, 126]", [""], 0),  # no JSON at all
    ],
)
def test_json_whole_or_not(text, labels, unread) -> None:
    found = PixelJson(question="").read(text, PLAN)
    assert [place.label for place in found.places] == labels and len(found.unread) == unread
    for place in found.places:
        assert (place.box or place.point)[:2] == pytest.approx((100, 50))


def test_odd_tags_are_read_or_reported() -> None:
    style = PercentPoints(question="")
    found = style.read('<point x="50" y="50" alt="a">a</point> <points x1="10" y1="20" x2="30" alt="b">b', PLAN)
    assert [place.point for place in found.places] == [(400, 200), (80, 80)] and len(found.unread) == 1
    assert style.read('<point x="150" y="50">', PLAN).clipped == 1
    assert style.read("<point alt='x'>", PLAN).unread
    assert LocTokens(question="").read("<loc0000><loc0000><loc0512> cat", PLAN).unread == (
        "<loc0000><loc0000><loc0512>",
    )
