"""Wilson's interval against values worked out by hand."""

import pytest

from chiasm.evaluation.statistics import wilson


def test_wilson():
    assert wilson(0, 10)[0] == 0.0 and wilson(0, 10)[1] == pytest.approx(0.2775, abs=1e-4)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(10, 10)[1] == 1.0
