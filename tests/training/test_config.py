"""Schedules, in numbers."""

import pytest

from chiasm.training.config import Constant, Cosine, Linear, StepDecay, WarmupStableDecay


def shares(schedule, steps=100):
    return [schedule.share(step, steps) for step in range(steps + 1)]


def test_cosine_rises_then_falls():
    rates = shares(Cosine(warmup=10, final_share=0.1))
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1.0 and rates[100] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.55)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_a_share_of_the_steps_warms_up():
    assert shares(Cosine(warmup=0.1)) == shares(Cosine(warmup=10))
    assert shares(Constant(warmup=0.03))[:4] == [1 / 3, 2 / 3, 1, 1]


def test_linear_constant_and_steps():
    rates = shares(Linear(warmup=0, final_share=0.5))
    assert rates[0] == 1 and rates[50] == 0.75 and rates[100] == 0.5
    assert set(shares(Constant())) == {1.0}
    assert [StepDecay(every=10, factor=0.1).share(step, 30) for step in (0, 9, 10, 29)] == [1, 1, 0.1, 0.1**2]


def test_warmup_stable_decay():
    rates = shares(WarmupStableDecay(warmup=10, decay=0.2))
    assert rates[0] == 0.1 and rates[10:81] == [1.0] * 71 and rates[90] == pytest.approx(0.5) and rates[100] == 0
