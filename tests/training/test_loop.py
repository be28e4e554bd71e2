"""The loop: a killed run goes on bit for bit, signals save, mistakes are named, parts of a step are weighed."""

import json
import os
import signal

import pytest
import torch
from torch import nn

from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.training.config import Adafactor, AdamW, Cosine, Group, Guard, LoopConfig, Muon
from chiasm.training.feed import Numbered
from chiasm.training.logs import read_log
from chiasm.training.loop import train
from chiasm.training.world import BLOCK

EVERYTHING = (Group(learning_rate=0.05, weight_decay=0.1),)


class Killed(Exception):
    pass


class Watch:
    """Calls a function after every step."""

    def __init__(self, call):
        self.call = call

    def start(self, step, steps):
        self.began = step

    def step(self, report):
        self.call(report)

    def stop(self):
        pass


class Fit(nn.Module):
    """The mean square error; a buffer counts the steps, and the dropout of the model uses torch's generator."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, module, pair):
        return {"loss": nn.functional.mse_loss(module(pair[0]) * self.scale, pair[1]), "size": torch.tensor(2.0)}

    def after_step(self, module, step):
        self.steps += 1


def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))


def batch(number):
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(6, 4, generator=generator)
    return x, x.sum(1, keepdim=True)


def error(module, pair):
    return {"loss": nn.functional.mse_loss(module(pair[0]), pair[1])}


def fit(net, out, config=None, objective=error, feed=None, **more):
    config = config or LoopConfig(steps=12, groups=EVERYTHING, schedule=Cosine(warmup=3), checkpoint_every=4)
    return train(net, objective, feed or Numbered(batch, "numbers"), config, out, **more)


def hexes(out):
    return [line["loss_hex"] for line in read_log(out / "log.jsonl")]


@pytest.mark.parametrize("optimizer", [AdamW(), Adafactor(), Muon()], ids=lambda made: type(made).__name__)
@pytest.mark.parametrize("more", [{}, {"ema": 0.9, "accumulate": 2}], ids=["plain", "ema"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, optimizer, more):
    config = LoopConfig(
        steps=12, groups=EVERYTHING, schedule=Cosine(warmup=3), checkpoint_every=4, optimizer=optimizer, **more
    )
    whole, counted = model(), Fit()
    fit(whole, tmp_path / "whole", config, counted)

    def kill(report):
        if report.step == 7:
            raise Killed

    with pytest.raises(Killed):
        fit(model(), tmp_path / "cut", config, Fit(), watchers=[Watch(kill)])
    assert len(hexes(tmp_path / "cut")) == 7
    again, recounted, watch = model(), Fit(), Watch(lambda report: None)
    finished = fit(again, tmp_path / "cut", config, recounted, watchers=[watch])
    assert finished.step == 12 and not finished.interrupted and watch.began == 4
    assert hexes(tmp_path / "cut") == hexes(tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert counted.steps == recounted.steps == 12 and torch.equal(counted.scale, recounted.scale)


def test_sigterm_saves_and_ends_in_order(tmp_path):
    def stop(report):
        if report.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    finished = fit(model(), tmp_path, watchers=[Watch(stop)])
    assert finished.interrupted and finished.step == 5
    assert signal.getsignal(signal.SIGTERM) == before
    assert (tmp_path / "checkpoints" / "step-00000005").is_dir()
    assert fit(model(), tmp_path).step == 12


@pytest.mark.parametrize("optimizer", [AdamW(), Adafactor(), Muon()], ids=lambda made: type(made).__name__)
def test_it_learns(tmp_path, optimizer):
    net = nn.Linear(4, 1)
    config = LoopConfig(steps=300, groups=(Group(learning_rate=0.2),), optimizer=optimizer)
    assert fit(net, tmp_path, config=config).loss < 1e-3


def test_parts_of_a_step_are_weighed_by_what_they_hold(tmp_path):
    """A step of two unequal parts has the gradient and the loss of both together."""
    both, parts = nn.Linear(4, 1), nn.Linear(4, 1)
    parts.load_state_dict(both.state_dict())
    x, y = batch(0)
    cuts = [(x[:1], y[:1]), (x[1:], y[1:])]

    class Weighed(Fit):
        def weight(self, pair):
            return float(len(pair[0]))

    one = LoopConfig(steps=1, groups=EVERYTHING)
    fit(both, tmp_path / "both", one, Weighed(), Numbered(lambda number: (x, y)))
    two = LoopConfig(steps=1, groups=EVERYTHING, accumulate=2)
    fit(parts, tmp_path / "parts", two, Weighed(), Numbered(lambda number: cuts[number]))
    torch.testing.assert_close(both.weight, parts.weight)
    losses = [float.fromhex(hexes(tmp_path / name)[0]) for name in ("both", "parts")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert read_log(tmp_path / "both" / "log.jsonl")[0]["size"] == 2.0


def test_vectors_do_not_decay_and_frozen_parameters_stay(tmp_path):
    net = model()
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    fit(net, tmp_path)
    assert torch.equal(net[0].weight, before)


def test_frozen_parts_stay_in_evaluation_mode(tmp_path):
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    net[0].requires_grad_(False)
    fit(net, tmp_path)
    assert not net[0].training and net[2].training and net[0].num_batches_tracked == 0


def test_the_average_of_the_weights_is_what_a_finished_run_has(tmp_path):
    plain, averaged = model(), model()
    values = []

    def watch(report):
        values.append(plain[0].weight.detach().clone())

    fit(plain, tmp_path / "plain", watchers=[Watch(watch)])
    config = LoopConfig(steps=12, groups=EVERYTHING, schedule=Cosine(warmup=3), checkpoint_every=4, ema=0.75)
    expected = model()[0].weight.detach().clone()
    fit(averaged, tmp_path / "averaged", config)
    for value in values:
        expected = 0.75 * expected + 0.25 * value
    torch.testing.assert_close(averaged[0].weight, expected)


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2), nn.Tanh()) for _ in range(3))
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_computing_again_changes_nothing(tmp_path):
    assert BLOCK.search("language.blocks.3") and not BLOCK.search("blocks.3.attn")
    logs = []
    for recompute in (False, True):
        torch.manual_seed(0)
        config = LoopConfig(steps=5, groups=EVERYTHING, recompute=recompute)
        fit(Layers(), tmp_path / str(recompute), config)
        logs.append(hexes(tmp_path / str(recompute)))
    assert logs[0] == logs[1]


def test_bfloat16_computes_and_weights_stay_float32(tmp_path):
    net = Layers()
    seen = []
    net.head.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    fit(net, tmp_path, LoopConfig(steps=1, groups=EVERYTHING, bf16=True))
    assert seen == [torch.bfloat16] and net.head.weight.dtype == torch.float32


class Named(Numbered):
    def keys(self, number):
        return (f"row-{number}",)


def broken(number):
    x, y = batch(number)
    return (x, y * float("nan")) if number in (3, 6) else (x, y)


def test_a_bad_step_is_skipped_counted_and_named(tmp_path):
    said = []
    finished = fit(model(), tmp_path, feed=Named(broken, ""), tell=said.append)
    lines = read_log(tmp_path / "log.jsonl")
    assert finished.skipped == 2 and finished.step == 12
    assert [line["step"] for line in lines if "skipped" in line] == [4, 7]
    assert lines[3]["keys"] == ["row-3"] and lines[3]["loss"] is None and "row-3" in said[0]
    assert all(json.dumps(line, allow_nan=False) for line in lines)


def test_too_many_bad_steps_stop_the_run_and_the_count_survives_a_kill(tmp_path):
    config = LoopConfig(steps=12, groups=EVERYTHING, guard=Guard(most_skipped=1), checkpoint_every=1)

    def kill(report):
        if report.step == 5:
            raise Killed

    with pytest.raises(Killed):
        fit(model(), tmp_path, config, feed=Named(broken, ""), watchers=[Watch(kill)])
    with pytest.raises(ConfigError, match=r"loss_not_finite.*step 7.*2 steps skipped, 1 allowed.*row-6"):
        fit(model(), tmp_path, config, feed=Named(broken, ""))


def test_a_jump_of_the_loss_is_skipped(tmp_path):
    def jumping(number):
        x, y = batch(0)
        return x, y * (30 if number == 8 else 1)

    config = LoopConfig(steps=12, groups=(Group(learning_rate=1e-4),), guard=Guard(spike=6, window=6))
    net = nn.Linear(4, 1)
    fit(net, tmp_path, config, feed=Named(jumping, ""))
    skipped = [line for line in read_log(tmp_path / "log.jsonl") if "skipped" in line]
    assert [line["step"] for line in skipped] == [9] and "deviations" in skipped[0]["skipped"]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"parameter_ungrouped.*0\.weight"):
        config = LoopConfig(steps=1, groups=(Group(pattern="^2", learning_rate=1.0),))
        fit(model(), tmp_path / "group", config=config)
    fit(model(), tmp_path / "other")
    with pytest.raises(CheckpointError, match="checkpoint_mismatch"):
        fit(nn.Sequential(nn.Linear(4, 9), nn.Identity(), nn.Linear(9, 1)), tmp_path / "other")
    with pytest.raises(CheckpointError, match="checkpoint_mismatch"):
        fit(nn.Linear(4, 1), tmp_path / "other")


def test_another_data_set_or_number_of_threads_is_refused(tmp_path):
    fit(model(), tmp_path)
    with pytest.raises(CheckpointError, match=r"resume_data.*data numbers, now letters"):
        fit(model(), tmp_path, feed=Numbered(batch, "letters"))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        with pytest.raises(CheckpointError, match=rf"resume_threads.*threads {threads}, now {threads + 1}"):
            fit(model(), tmp_path)
    finally:
        torch.set_num_threads(threads)
