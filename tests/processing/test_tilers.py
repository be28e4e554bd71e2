"""Tilers as properties: any size of picture, any setting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.gallery import rgb

import chiasm.processing.tilers as tilers
from chiasm.core.errors import ConfigError
from chiasm.processing.tilers import AnyRes, CenterCrop, PadSquare, Stretch, Tiler, best_canvas, unpadded_grid

SIZES = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
SMALL = st.tuples(st.integers(1, 90), st.integers(1, 90))
SIDE = st.integers(1, 6).map(lambda n: 8 * n)
PINPOINTS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=5)


@st.composite
def any_tiler(draw: st.DrawFn) -> Tiler:
    side = draw(SIDE)
    shape = {"patch": 8, "extra": draw(st.integers(0, 2))}
    kind = draw(st.sampled_from([CenterCrop, Stretch, PadSquare, AnyRes]))
    if kind is CenterCrop:
        resize = draw(st.one_of(st.none(), st.integers(8, 60), st.tuples(SIDE, SIDE)))
        crop = draw(st.one_of(st.just((side, side)), st.tuples(SIDE, SIDE)))
        return CenterCrop(resize=resize, crop=crop, half_even=draw(st.booleans()), **shape)
    if kind is Stretch:
        return Stretch(size=(side, draw(SIDE)), **shape)
    if kind is PadSquare:
        return PadSquare(side=side, **shape)
    return AnyRes(side=side, pinpoints=tuple((side * h, side * w) for h, w in draw(PINPOINTS)), **shape)


@given(any_tiler(), SIZES)
def test_tokens_are_those_of_the_crops(tiler: Tiler, size: tuple[int, int]) -> None:
    plan = tiler.plan(size)
    rows, columns = plan.tokens
    assert all((crop.size[1] // 8, crop.size[0] // 8) == (rows, columns) for crop in plan.crops)
    if isinstance(tiler, AnyRes):
        assert len(plan.crops) == 1 + plan.grid[0] * plan.grid[1]
        _, _, kept_rows, kept_columns = unpadded_grid(size, (plan.grid[0] * rows, plan.grid[1] * columns))
        tiles = kept_rows * (kept_columns + 1)
        assert plan.num_tokens == rows * columns + tiles + tiler.extra
    else:
        assert plan.num_tokens == rows * columns + tiler.extra and len(plan.crops) == 1


@settings(deadline=None)
@given(any_tiler(), SMALL)
def test_render_gives_what_the_plan_says(tiler: Tiler, size: tuple[int, int]) -> None:
    plan = tiler.plan(size)
    crops = tiler.render(rgb(*size), plan)
    assert [crop.size for crop in crops] == [crop.size for crop in plan.crops]
    assert all(crop.mode == "RGB" for crop in crops)


@given(any_tiler(), SIZES, st.floats(0, 1), st.floats(0, 1))
def test_to_source_undoes_the_placing(tiler: Tiler, size: tuple[int, int], across: float, down: float) -> None:
    plan = tiler.plan(size)
    for i, crop in enumerate(plan.crops):
        x = across * crop.resized[0] + crop.offset[0]
        y = down * crop.resized[1] + crop.offset[1]
        assert plan.to_source(x, y, i) == pytest.approx((across * size[0], down * size[1]), abs=1e-6)


@settings(deadline=None)
@given(any_tiler(), SMALL)
def test_every_source_pixel_is_shown_or_counted_as_cropped(tiler: Tiler, size: tuple[int, int]) -> None:
    plan = tiler.plan(size)
    # The part that every crop shows, in source pixels; a picture's crops are the whole, or tiles of one scaling.
    shown = []
    for i, crop in enumerate(plan.crops):
        (left, top), (right, bottom) = plan.to_source(0, 0, i), plan.to_source(*crop.size, i)
        shown.append((max(0, left), max(0, top), min(size[0], right), min(size[1], bottom)))
    areas = [max(0, r - x) * max(0, b - t) for x, t, r, b in shown]
    if len(areas) > 1:
        assert areas[0] == pytest.approx(size[0] * size[1])  # the base crop hides nothing
        assert sum(areas[1:]) == pytest.approx(size[0] * size[1])  # and neither do the tiles together
        assert plan.cropped_share == 0
    else:
        assert plan.cropped_share == pytest.approx(1 - areas[0] / (size[0] * size[1]), abs=2e-6)
    if isinstance(tiler, (PadSquare, Stretch)):
        assert plan.cropped_share == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (5000, 200), (200, 5000)])
def test_extreme_pictures_are_handled_as_the_family_does(size: tuple[int, int]) -> None:
    clip = CenterCrop(patch=14).plan(size)
    assert clip.crops[0].size == (224, 224) and min(clip.crops[0].resized) == 224
    assert clip.cropped_share == pytest.approx(1 - min(size) / max(size), abs=1e-3)
    assert Stretch(patch=16).plan(size).num_tokens == 196
    assert PadSquare(patch=14).plan(size).num_tokens == 576
    anyres = AnyRes(patch=14).plan(size)
    assert anyres.num_tokens >= 576
    picture = rgb(*size)
    for tiler in (CenterCrop(), Stretch(), PadSquare(), AnyRes()):
        assert len(tiler.render(picture, tiler.plan(size))) == len(tiler.plan(size).crops)


def test_the_margin_is_rounded_as_asked() -> None:
    for length, floor, half_even in ((227, -1, -2), (225, 0, 0), (229, -2, -2), (221, 2, 1), (224, 0, 0)):
        size = (length, 224)
        assert CenterCrop(resize=None).plan(size).crops[0].offset == (floor, 0)
        assert CenterCrop(resize=None, half_even=True).plan(size).crops[0].offset == (half_even, 0)


def test_small_pictures_stand_on_black() -> None:
    (crop,) = CenterCrop(resize=None, crop=(6, 4)).render(
        Image.new("RGB", (3, 2), "white"), CenterCrop(resize=None, crop=(6, 4)).plan((3, 2))
    )
    white = np.asarray(crop)[..., 0] == 255
    assert white.sum() == 6 and white[1:3, 2:5].all()


@settings(deadline=None, max_examples=60)
@given(SMALL, SIDE, st.sampled_from([0, 1, 2, 3, 4, 5]))
def test_padding_in_bands_equals_padding_at_once(size: tuple[int, int], side: int, resample: int) -> None:
    tiler, picture = PadSquare(side=side), rgb(*size)
    plan = tiler.plan(size)
    (whole,) = tiler.render(picture, plan, resample)
    limit = tilers._BAND_PIXELS
    try:
        tilers._BAND_PIXELS = 3 * max(size) if max(size) > 3 else 0
        (banded,) = tiler.render(picture, plan, resample)
    finally:
        tilers._BAND_PIXELS = limit
    assert np.array_equal(np.asarray(whole), np.asarray(banded))


@settings(deadline=None, max_examples=60)
@given(SMALL, st.integers(1, 60))
def test_a_window_equals_its_part_of_the_whole(size: tuple[int, int], more: int) -> None:
    edge = min(size) + more
    tiler, picture = CenterCrop(resize=edge, crop=(edge, edge)), rgb(*size)
    plan = tiler.plan(size)
    (whole,) = tiler.render(picture, plan)
    limit = tilers._WHOLE_RESIZE_PIXELS
    try:
        tilers._WHOLE_RESIZE_PIXELS = 0
        (window,) = tiler.render(picture, plan)
    finally:
        tilers._WHOLE_RESIZE_PIXELS = limit
    difference = np.abs(np.asarray(whole).astype(int) - np.asarray(window))
    assert difference.max() <= 1 and (difference > 0).mean() <= 0.01


def test_the_best_canvas_keeps_most_then_wastes_least_then_comes_first() -> None:
    canvases = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
    assert best_canvas((600, 300), canvases) == (336, 672)
    assert best_canvas((300, 600), canvases) == (672, 336)
    assert best_canvas((3000, 3000), canvases) == (672, 672)
    assert best_canvas((10, 10), canvases) == (336, 672)  # all keep everything: the smallest, then the first


def test_canvases_that_tiles_do_not_fill_are_refused() -> None:
    for pinpoints in ((), ((336, 500),), ((0, 336),)):
        with pytest.raises(ConfigError) as caught:
            AnyRes(pinpoints=pinpoints)
        assert caught.value.code in ("pinpoints_empty", "pinpoint_not_tiled")
