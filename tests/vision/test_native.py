"""Packed towers: runs by index against a mask over everything, windows against a loop, cost that grows with pixels."""

from __future__ import annotations

import time

import pytest
import torch

from chiasm.nn.attention import AttentionConfig, attend_runs
from chiasm.nn.masks import AttentionMask, run_mask
from chiasm.vision import native
from chiasm.vision.native import NativeViTConfig, WindowConfig, merged_positions, window_order

SHAPE = {"patch_size": 4, "hidden_dim": 32, "num_layers": 2, "num_heads": 2, "mlp_dim": 64, "act": "silu"}


@pytest.mark.parametrize("lengths", [[5], [3, 3, 3], [4, 1, 7, 4, 1], [1, 2, 3], [9, 2]])
def test_runs_equal_a_mask_over_all_pairs_with_gradients(lengths) -> None:
    torch.manual_seed(0)
    total = sum(lengths)
    q, k, v = (torch.randn(1, 2, total, 8, requires_grad=True) for _ in range(3))
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    allowed = (segment[:, None] == segment)[None, None]
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    runs = run_mask(lengths).runs
    assert runs is not None
    out = attend_runs(q, k, v, runs)
    assert (out - expected).abs().max() <= 1e-6
    weight = torch.randn_like(out)
    there = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    here = torch.autograd.grad((out * weight).sum(), (q, k, v))
    assert all((a - b).abs().max() <= 1e-5 for a, b in zip(here, there, strict=True))
    assert runs.order is None or sorted(lengths) != lengths


def test_windows_are_what_a_loop_finds() -> None:
    grids = [(1, 6, 10), (2, 4, 4), (1, 2, 2)]
    order, lengths = window_order(grids, merge=2, side=4)
    rows, columns = merged_positions(grids, 2)
    picture, frame, start = [], [], 0
    for index, (t, h, w) in enumerate(grids):
        picture += [index] * (t * h * w)
        frame += [at // (h * w) for at in range(t * h * w)]
        start += t * h * w
    keys = [
        (p, f, int(r) // 4, int(c) // 4)
        for p, f, r, c in zip(picture, frame, rows.tolist(), columns.tolist(), strict=True)
    ]
    assert sorted(order.tolist()) == list(range(len(keys)))
    at = 0
    for length in lengths:
        assert len({keys[i] for i in order[at : at + length].tolist()}) == 1
        at += length
    assert len(lengths) == len(set(keys))


def test_a_picture_is_encoded_the_same_in_any_company() -> None:
    torch.manual_seed(1)
    grids = [(1, 6, 10), (2, 4, 4), (1, 2, 2)]
    for window in (None, WindowConfig(side=16, full_layers=(1,))):
        for grid in (0, 5):
            tower = NativeViTConfig(**SHAPE, window=window, learned_grid=grid, rms_norm=True).build()
            if tower.pos_embed is not None:
                torch.nn.init.normal_(tower.pos_embed)
            patches = torch.randn(sum(t * h * w for t, h, w in grids), 96)
            together, start = tower(patches, grids), 0
            for one in grids:
                stop = start + one[0] * one[1] * one[2]
                assert (tower(patches[start:stop], [one]) - together[start:stop]).abs().max() <= 1e-5
                start = stop


@pytest.mark.parametrize("full", [(), (1,), (0, 3)])
def test_windows_in_turns_equal_windows_at_once(full: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    grids = [(1, 10, 14), (2, 6, 4)]
    shape = {**SHAPE, "num_layers": 4, "rms_norm": True}
    tower = NativeViTConfig(**shape, window=WindowConfig(side=16, full_layers=full)).build()
    patches = torch.randn(sum(t * h * w for t, h, w in grids), 96)
    weight, found, calls = torch.randn(len(patches), 32), [], 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    tower.blocks[2].register_forward_hook(count)
    monkeypatch.setattr(native, "_rows", lambda grids: [list(grids)])  # one row both times
    for row in (10**6, 40):
        monkeypatch.setattr(native, "CPU_ROW", row)
        tower.zero_grad()
        out = tower(patches, grids)
        (out * weight).sum().backward()
        found.append((out.detach(), [p.grad.clone() for p in tower.parameters()], calls))
    (once, there, first), (turns, here, both) = found
    assert first == 1 and both > 4
    assert (once - turns).abs().max() <= 1e-5
    assert all((a - b).abs().max() <= 1e-4 for a, b in zip(there, here, strict=True))


def seconds(call) -> float:
    call()
    best = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        best.append(time.perf_counter() - start)
    return min(best)


def test_windows_cost_grows_with_pixels_and_far_less_than_full_attention() -> None:
    """Scores computed, counted exactly; seconds are told in docs, because machines differ."""
    work = {}
    for side in (28, 56, 84, 112):
        _, lengths = window_order([(1, side, side)], merge=2, side=8)
        work[side] = sum(n * n for n in lengths) / side**2
        assert sum(lengths) == side * side
    assert max(work.values()) <= 64 and max(work.values()) / min(work.values()) <= 1.35
    assert 112**2 / work[112] > 100  # full attention at 1568 pixels


def test_packing_wastes_nothing() -> None:
    """The same layer on 8 pictures of mixed sizes, as one packed row and as a padded batch."""
    torch.manual_seed(2)
    torch.set_num_threads(1)
    layer = AttentionConfig(hidden_dim=64, num_heads=4).build()
    lengths = [36, 64, 100, 144, 400, 64, 36, 900]
    row = torch.randn(1, sum(lengths), 64)
    padded = torch.nn.utils.rnn.pad_sequence(row[0].split(lengths), batch_first=True)
    real = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    mask = AttentionMask(real[:, None, None])
    with torch.no_grad():
        out = layer(row, mask=run_mask(lengths))[0].split(lengths)
        wide = layer(padded, mask=mask)
        for index, one in enumerate(out):
            assert (wide[index, : len(one)] - one).abs().max() <= 1e-5
        packed = seconds(lambda: layer(row, mask=run_mask(lengths)))
        assert seconds(lambda: layer(padded, mask=mask)) > 1.5 * packed
