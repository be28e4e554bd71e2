"""Moments and places as models write them: read, clipped, reported; nothing that a model writes breaks the readers."""

from __future__ import annotations

import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.core.plan import Crop, ImagePlan
from chiasm.processing.coordinates import GridBoxes, LocTokens, PercentPoints, PixelJson, Place
from chiasm.processing.moments import SecondsInText

STYLE = SecondsInText(question="{query}?")
PLAN = ImagePlan((800, 400), (Crop((1008, 504), (0, 0), (1008, 504)),))
GRID = GridBoxes(question="")
JSON = PixelJson(question="")
PLACES = (GRID, GridBoxes(question="", form="pairs"), JSON, PercentPoints(question=""), LocTokens(question=""))


@pytest.mark.parametrize(
    ("text", "spans", "unread", "clipped"),
    [
        ("It happens from 3.0 to 8.5 seconds.", [(3, 8.5)], 0, 0),
        ("3.0 - 8.5 seconds", [(3, 8.5)], 0, 0),
        ("3s to 8s, and 10s – 12s", [(3, 8), (10, 12)], 0, 0),
        ("between 0:03 and 0:08.5", [(3, 8.5)], 0, 0),
        ("00:00:03 until 00:00:08", [(3, 8)], 0, 0),
        ('```json\n[{"start": 3, "end": 8.5, "event": "x"},]\n```', [(3, 8.5)], 0, 0),
        ('{"start_time": "0:03", "end_time": "0:08"}', [(3, 8)], 0, 0),
        ("[[3.0, 8.5], [9, 11]]", [(3, 8.5), (9, 11)], 0, 0),
        ("<3.0 seconds> to <8.5 seconds>", [(3, 8.5)], 0, 0),
        ("8.5 to 3.0", [(3, 8.5)], 0, 0),  # ends swapped
        ("5 to 90 seconds", [(5, 20)], 0, 1),  # beyond the video
        ("-2 to 4", [(0, 4)], 0, 1),
        ("3 to 8 and again 3 to 8", [(3, 8)], 0, 0),
        ("30 to 40", [], 1, 0),  # after the end
        ("7 to 7", [], 1, 0),
        ("at 12.5 seconds", [], 1, 0),  # one time alone
        ('[{"start": 3, "end": 8}, {"start": 1', [(3, 8)], 1, 0),  # cut off
        ("never", [], 0, 0),
    ],
)
def test_times_are_read(text: str, spans: list[tuple[float, float]], unread: int, clipped: int) -> None:
    found = STYLE.read(text, 20.0)
    assert [*found.spans] == spans and len(found.unread) == unread and found.clipped == clipped


@given(
    st.lists(
        st.tuples(st.integers(0, 4000), st.integers(1, 4000)).map(lambda t: (t[0] / 10, (t[0] + t[1]) / 10)),
        max_size=5, unique=True,
    )
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_back(spans: list[tuple[float, float]]) -> None:
    found = STYLE.read(STYLE.write(spans), 1000.0)
    assert [*found.spans] == spans and not found.unread and not found.clipped


@pytest.mark.parametrize(
    ("style", "text", "boxes", "unread"),
    [
        (JSON, "[{'bbox_2d': [126, 126, 252, 252], 'label': 'cat'}]", [(100, 100, 200, 200)], 0),
        (JSON, '{"objects": [{"bbox_2d": [126, 126, 252, 252],}, ]}', [(100, 100, 200, 200)], 0),
        (JSON, '{"bbox_2d": [[126,126,252,252],[0,0,126,126]]}', [(100, 100, 200, 200), (0, 0, 100, 100)], 0),
        (JSON, '{"bbox_2d": ["126", "126", "252", "252"], "label": "a \\"b\\""}', [(100, 100, 200, 200)], 0),
        (JSON, '[{"bbox_2d": [126,126,252,252]}, {"bbox_2d": [12, 4', [(100, 100, 200, 200)], 1),
        (JSON, '{"bbox_2d": [0.25, 0.25, 0.5, 0.5]}', [(200, 100, 400, 200)], 0),
        (JSON, '{"bbox_2d": [252, 252, 126, 126]}', [(100, 100, 200, 200)], 0),
        (GRID, "[0.25, 0.25, 0.5, 0.5]", [(200, 100, 400, 200)], 0),
        (GRID, "[25%, 25%, 50%, 50%]", [(200, 100, 400, 200)], 0),
        (GRID, "[0, 0, 1, 1]", [(0, 0, 0.8, 0.4)], 0),  # one cell: whole numbers are cells
    ],
)
def test_boxes_are_read_however_they_are_spelled(style, text, boxes, unread) -> None:  # type: ignore[no-untyped-def]
    found = style.read(text, PLAN)
    assert [place.box for place in found.places] == [pytest.approx(box) for box in boxes]
    assert len(found.unread) == unread


def test_labels_keep_their_quotes() -> None:
    place = Place(box=(0, 0, 80, 40), label='the "red" one\\')
    written = JSON.write([place], PLAN)
    assert json.loads(written.removeprefix("```json").removesuffix("```"))[0]["label"] == place.label


PIECES = st.sampled_from(
    [*'[](){}<>,;:."\'%-\n `', "bbox_2d", '"bbox_2d": ', '"point_2d": ', "<point ", "x1=", "y1=", 'x="', 'y="',
     "<loc0512>", "</box>", "<box>", "```json\n", "to", "start", "1e9", "nan", "9" * 400, "0:", "12.5", "-3",
     "1000", "0.5", " s"]
)  # fmt: skip
WILD = st.one_of(st.text(max_size=80), st.lists(st.one_of(PIECES, st.integers().map(str)), max_size=60).map("".join))


@given(WILD)
@settings(max_examples=250, deadline=None)
def test_nothing_breaks_a_reader_and_every_place_lies_in_the_picture(text: str) -> None:
    for style in PLACES:
        for place in style.read(text, PLAN).places:
            x0, y0, x1, y1 = place.box or (*(place.point or ()), *(place.point or ()))
            assert 0 <= x0 <= x1 <= 800 and 0 <= y0 <= y1 <= 400
            assert place.box is None or (x0 < x1 and y0 < y1)
    for start, end in STYLE.read(text, 20.0).spans:
        assert 0 <= start < end <= 20 and math.isfinite(end)


@pytest.mark.parametrize("piece", ["[1,", "((", '{"bbox_2d": [', "1 to ", "1:", "<point x=", "12, ", " " * 5, "(1,2)"])
def test_long_replies_are_read_in_time(piece: str) -> None:
    text = piece * 4000
    begun = time.process_time()
    for style in PLACES:
        style.read(text, PLAN)
    STYLE.read(text, 20.0)
    assert time.process_time() - begun < 2.0
