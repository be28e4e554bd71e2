"""The native vision tower's cost: ``python benchmarks/towers.py [--json] [--threads 1] [--runs 2]``.

A tower shaped like Qwen2.5-VL's (patches of 14 pixels, tokens of 2×2 patches, windows of 112 pixels, every fourth layer
whole) of 4 layers, 320 wide, random weights, float32:
- packing: 16 pictures of mixed sizes in packed rows, beside the same pictures padded to the longest of the batch with
  the padding masked, which is what a tower without packing does; both give the same features;
- windows: a picture of 1344 pixels with windows in three layers of four, and with whole attention in all of them;
- pixels: time a patch at 448, 896, 1344 and 1792 pixels, with windows in all layers and in three of four.

Sides take turns; figures are medians of processor time, so that other work on the machine disturbs them little.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from chiasm.nn.masks import attention_mask
from chiasm.nn.positions import axial_tables
from chiasm.vision.native import Grid, NativeViT, NativeViTConfig, WindowConfig, merged_positions

LAYERS, WIDTH, HEADS, MLP, PATCH = 4, 320, 4, 864, 14
SIDES = (448, 896, 1344, 1792)
Run = Callable[[], torch.Tensor]


def tower(windows: str) -> NativeViT:
    """A tower with windows in ``all`` layers, ``most`` (three of four) or ``none``; always the same weights."""
    torch.manual_seed(0)
    full = {"all": (), "most": (LAYERS - 1,), "none": tuple(range(LAYERS))}[windows]
    config = NativeViTConfig(
        hidden_dim=WIDTH, num_layers=LAYERS, num_heads=HEADS, mlp_dim=MLP, act="silu", rms_norm=True,
        window=WindowConfig(full_layers=full),
    )  # fmt: skip
    if windows == "none":
        config = replace(config, window=None)
    return config.build().eval()


def square(side: int) -> Grid:
    """The grid of a square picture of about `side` pixels."""
    count = side // PATCH
    return 1, count, count


def mixed() -> list[Grid]:
    """Grids of 16 pictures of 168 to 672 pixels a side, as a web page's are: many small, few large."""
    chance = random.Random(0)

    def side() -> int:
        return 2 * round(6 * 4 ** (chance.random() ** 2))

    return [(1, side(), side()) for _ in range(16)]


def pixels(grids: list[Grid], module: NativeViT) -> torch.Tensor:
    """Random patches."""
    return torch.randn(sum(t * h * w for t, h, w in grids), module.config.patch_dim)


def padded(module: NativeViT, patches: torch.Tensor, grids: list[Grid]) -> torch.Tensor:
    """One row a picture, padded to the longest; every block runs over the padding too. Features of patches alone."""
    config = module.config
    lengths = [t * h * w for t, h, w in grids]
    attend = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    rows = torch.nn.utils.rnn.pad_sequence(list(patches.split(lengths)), batch_first=True)
    tables = [
        axial_tables(*merged_positions([grid], config.merge), config.hidden_dim // config.num_heads) for grid in grids
    ]

    def stacked(which: int) -> torch.Tensor:
        each = [pair[which][0, 0] for pair in tables]
        return torch.nn.utils.rnn.pad_sequence(each, batch_first=True)[:, None]

    x, rotary, longest = module.patch_embed(rows), (stacked(0), stacked(1)), max(lengths)
    mask = attention_mask(attend, causal=False, queries=longest, keys=longest)
    for block in module.blocks:
        x = block(x, mask=mask, rotary=rotary)
    return module.norm_post(x)[attend]


@torch.inference_mode()
def medians(sides: Mapping[str, Run], runs: int) -> dict[str, float]:
    """Seconds of processor time of each, in turns; one warm-up each."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for run in range(runs + 1):
        for name, side in sides.items():
            busy = time.process_time()
            side()
            if run:
                taken[name].append(time.process_time() - busy)
    return {name: statistics.median(each) for name, each in taken.items()}


def packing(runs: int) -> dict[str, Any]:
    """16 mixed pictures, packed and padded."""
    module, grids = tower("none"), mixed()
    patches = pixels(grids, module)
    with torch.inference_mode():
        torch.testing.assert_close(module(patches, grids), padded(module, patches, grids), atol=1e-4, rtol=1e-4)
    seconds = medians(
        {"packed": lambda: module(patches, grids), "padded": lambda: padded(module, patches, grids)}, runs
    )
    most = max(t * h * w for t, h, w in grids)
    row = {"patches": len(patches), "with_padding": most * len(grids)}
    return row | seconds | {"ratio": seconds["padded"] / seconds["packed"]}


def windows(runs: int) -> dict[str, Any]:
    """One picture of 1344 pixels."""
    most, none, grids = tower("most"), tower("none"), [square(1344)]
    patches = pixels(grids, most)
    seconds = medians({"windows": lambda: most(patches, grids), "whole": lambda: none(patches, grids)}, runs)
    return {"patches": len(patches)} | seconds | {"ratio": seconds["whole"] / seconds["windows"]}


def growth(runs: int) -> dict[str, Any]:
    """Microseconds a patch at four sizes, and how much the largest costs beside the smallest."""
    modules = {name: tower(name) for name in ("all", "most")}
    given = {side: pixels([square(side)], modules["all"]) for side in SIDES}
    sides = {
        f"{name} {side}": lambda module=module, side=side: module(given[side], [square(side)])
        for side in SIDES
        for name, module in modules.items()
    }
    seconds = medians(sides, runs)
    rows = {}
    for name in modules:
        each = {str(side): 1e6 * seconds[f"{name} {side}"] / len(given[side]) for side in SIDES}
        rows[name] = each | {"ratio": each[str(SIDES[-1])] / each[str(SIDES[0])]}
    return rows


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=2, help="runs of each figure, after a warm-up")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts = {"packing": packing, "windows": windows, "microseconds_a_patch": growth}
    rows = {name: part(options.runs) for name, part in parts.items()}
    if options.json:
        print(json.dumps({"threads": options.threads, "torch": torch.__version__, "rows": rows}))
        return 0
    pack, window = rows["packing"], rows["windows"]
    print(
        f"16 pictures, {pack['patches']} patches, {pack['with_padding']} with padding: packed {pack['packed']:.2f} s, "
        f"padded {pack['padded']:.2f} s, {pack['ratio']:.2f}×"
    )
    print(
        f"1344 pixels, {window['patches']} patches: windows in three layers of four {window['windows']:.2f} s, "
        f"whole {window['whole']:.2f} s, {window['ratio']:.2f}×"
    )
    print(f"{'microseconds a patch, windows in':34}" + "".join(f"{side:>8}" for side in SIDES) + "   last / first")
    for name, row in rows["microseconds_a_patch"].items():
        print(f"{name:34}" + "".join(f"{row[str(side)]:>8.0f}" for side in SIDES) + f"{row['ratio']:>12.2f}×")
    return 0


if __name__ == "__main__":
    sys.exit(main())
