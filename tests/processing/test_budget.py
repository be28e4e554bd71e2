"""One budget of visual tokens holds for every tiler and every shape, and too small a budget is refused."""

from __future__ import annotations

import numpy as np
import pytest

import chiasm
from chiasm.core.errors import ChiasmError
from chiasm.processing.budget import fewest, within
from chiasm.processing.native_tilers import SmartResize
from chiasm.processing.tiler_table import TILERS, table


def sizes() -> list[tuple[int, int]]:
    random = np.random.default_rng(1)
    drawn = np.exp(random.uniform(0, np.log(4000), (60, 2))).astype(int).clip(1)
    return [(1, 1), (5000, 200), (3840, 2160), (30, 2000), *((int(w), int(h)) for w, h in drawn)]


@pytest.mark.parametrize("name", TILERS)
@pytest.mark.parametrize("extra", [0, 1, 7, 300, 5000])
def test_no_picture_costs_more_than_the_budget(name, extra) -> None:
    tiler = TILERS[name]
    budget = fewest(tiler) + extra
    limited = within(tiler, budget)
    for size in sizes():
        try:
            plan = limited.plan(size)
        except ChiasmError as error:
            assert error.code == "picture_too_thin"
            continue
        assert 0 < plan.num_tokens <= budget, size


@pytest.mark.parametrize("name", TILERS)
def test_too_small_a_budget_says_the_least(name) -> None:
    least = fewest(TILERS[name])
    with pytest.raises(ChiasmError, match=rf"image_tokens_too_few.*budget of {least - 1} .*at least {least}"):
        within(TILERS[name], least - 1)


def test_a_large_budget_changes_nothing() -> None:
    for tiler in TILERS.values():
        for size in sizes():
            try:
                assert within(tiler, 10**6).plan(size) == tiler.plan(size)
            except ChiasmError as error:
                assert error.code == "picture_too_thin"
    assert within(SmartResize(), 300).plan((1000, 800)).num_tokens <= 300


def test_the_table_has_a_row_a_tiler() -> None:
    rows = table((1920, 1080)).splitlines()
    assert len(rows) == 2 + len(TILERS) and all(row.count("|") == 8 for row in rows)
    assert "image_tokens_too_few" in table((1920, 1080), 100)


@pytest.mark.parametrize("family", ["qwen2_vl", "internvl", "kimi_vl", "molmo", "xcomposer", "llava_next"])
def test_a_model_keeps_to_its_budget_and_still_answers(family) -> None:
    from PIL import Image

    model = chiasm.new(family)
    picture = Image.new("RGB", (300, 170), (9, 99, 200))
    talk = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "what?"}]}]
    before = model.inspect(talk).plans[0].num_tokens
    least = fewest(model.processor.image_processor.tiler)
    budget = max(least, before // 2)
    model.processor = model.processor.within(budget)
    after = model.inspect(talk).plans[0].num_tokens
    assert after <= budget and (after < before or before == least)
    assert len(model.generate(talk, max_new_tokens=3)) == 1
