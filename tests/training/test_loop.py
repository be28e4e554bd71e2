"""The loop: a killed run goes on bit for bit, signals save, mistakes are named."""

import json
import os
import signal

import pytest
import torch
from torch import nn

from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.training.loop import Group, LoopConfig, train

EVERYTHING = (Group(pattern="", learning_rate=0.05, weight_decay=0.1),)


def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))


def batch(number):
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(6, 4, generator=generator)
    return x, x.sum(1, keepdim=True)


def fit(net, out, steps=12, config=None, **more):
    config = config or LoopConfig(steps=steps, groups=EVERYTHING, warmup=3, checkpoint_every=4)

    def loss(pair):
        return nn.functional.mse_loss(net(pair[0]), pair[1])

    return train(net, batch, loss, config, out, **more)


def hexes(out):
    return [json.loads(line)["loss_hex"] for line in (out / "log.jsonl").read_text().splitlines()]


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    whole = model()
    fit(whole, tmp_path / "whole")

    def kill(step, loss):
        if step == 7:
            raise Killed

    with pytest.raises(Killed):
        fit(model(), tmp_path / "cut", on_step=kill)
    assert len(hexes(tmp_path / "cut")) == 7
    again = model()
    finished = fit(again, tmp_path / "cut")
    assert finished.step == 12 and not finished.interrupted
    assert hexes(tmp_path / "cut") == hexes(tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_sigterm_saves_and_ends_in_order(tmp_path):
    def stop(step, loss):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    finished = fit(model(), tmp_path, on_step=stop)
    assert finished.interrupted and finished.step == 5
    assert signal.getsignal(signal.SIGTERM) == before
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]
    assert fit(model(), tmp_path).step == 12


def test_it_learns(tmp_path):
    net = nn.Linear(4, 1)
    config = LoopConfig(steps=200, groups=(Group(pattern="", learning_rate=0.05),))
    assert fit(net, tmp_path, config=config).loss < 1e-3


def test_accumulated_batches_make_the_gradient_of_their_mean(tmp_path):
    both, halves = nn.Linear(4, 1), nn.Linear(4, 1)
    halves.load_state_dict(both.state_dict())
    config = LoopConfig(steps=1, groups=EVERYTHING, accumulate=2)
    fit(halves, tmp_path / "halves", config=config)

    def loss(pairs):
        return sum(nn.functional.mse_loss(both(x), y) for x, y in pairs) / 2

    train(both, lambda step: (batch(0), batch(1)), loss, LoopConfig(steps=1, groups=EVERYTHING), tmp_path / "both")
    torch.testing.assert_close(both.weight, halves.weight)


def test_vectors_do_not_decay_and_frozen_parameters_stay(tmp_path):
    net = model()
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    fit(net, tmp_path)
    assert torch.equal(net[0].weight, before)


def test_rates_rise_then_fall():
    config = LoopConfig(steps=100, groups=EVERYTHING, warmup=10, final_share=0.1)
    rates = [config.rate(step) for step in range(101)]
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1.0 and rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"parameter_ungrouped.*0\.weight"):
        config = LoopConfig(steps=1, groups=(Group(pattern="^2", learning_rate=1.0),))
        fit(model(), tmp_path / "group", config=config)
    with pytest.raises(ConfigError, match="loss_not_finite"):
        config = LoopConfig(steps=1, groups=EVERYTHING)
        train(
            nn.Linear(1, 1),
            lambda step: None,
            lambda _: torch.tensor(float("nan"), requires_grad=True),
            config,
            tmp_path / "nan",
        )
    fit(model(), tmp_path / "other")
    with pytest.raises(CheckpointError, match="checkpoint_mismatch"):
        fit(nn.Sequential(nn.Linear(4, 9), nn.Identity(), nn.Linear(9, 1)), tmp_path / "other")
    with pytest.raises(CheckpointError, match="checkpoint_mismatch"):
        fit(nn.Linear(4, 1), tmp_path / "other")
