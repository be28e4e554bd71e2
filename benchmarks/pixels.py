"""Whether the pixels carry it at all: a linear classifier over a frozen tower's cells names things and reads signs.

No connector and no language model: the cell that holds the middle of a thing or a sign, standardised, one affine map to
the dozen names (AdamW, 400 steps of 256 cells): about what a connector of one affine map could find there.

    python benchmarks/pixels.py --train 200 --held-out 60 --store runs/store

With the folder of a finished comparison of the three recipes: its answers by kind of question and by place (a tile ends
in the middle row and column), each recipe beside the first; intervals of a bootstrap that draws seeds and items.

    python benchmarks/pixels.py --compared runs/sharpness
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from chiasm.data.collation import Cells
from chiasm.data.named import open_named
from chiasm.evaluation.statistics import interval
from chiasm.recipes import sharpness
from chiasm.training.features import frozen_features

RECIPES = (sharpness.shrunk_cells, sharpness.tiled_cells, sharpness.whole_cells)
KINDS = ("small_names", "small_signs")
STEPS, BATCH, RATE = 400, 256, 2e-3


def cells(model: Any, store: Any, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, D) features of all cells of a data set that hold something, and (n,) ids of its word."""
    data, collate = open_named(name), Cells().build(store.processor)
    features, words = [], []
    for start in range(0, len(data), 16):
        batch = store.fill(collate([data[row] for row in range(start, min(len(data), start + 16))]))
        held = batch.labels[..., 0] > 0
        features.append(batch.features[held])
        words.append(batch.labels[..., 0][held])
    return torch.cat(features), torch.cat(words)


def classified(
    train: tuple[torch.Tensor, torch.Tensor], held_out: tuple[torch.Tensor, torch.Tensor], decay: float
) -> float:
    """The share of held-out cells that an affine map, fitted on others, gives the right word."""
    x, known = train[0], train[1].unique()
    mean, deviation = x.mean(0), x.std(0) + 1e-4
    x, y = (x - mean) / deviation, torch.searchsorted(known, train[1])
    affine = torch.nn.Linear(x.shape[1], len(known))
    torch.nn.init.zeros_(affine.weight)
    optimizer = torch.optim.AdamW(affine.parameters(), lr=RATE, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(affine(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        said = known[affine((held_out[0] - mean) / deviation).argmax(-1)]
    return float((said == held_out[1]).float().mean())


def compared(folder: Path) -> None:
    """Print what a comparison's answers come to, by kind and by place."""
    right, asked = {}, []
    for make in RECIPES:
        runs = sorted((folder / "eval" / make.__name__).iterdir())
        rows = [[json.loads(line) for line in (run / "samples" / "answers.jsonl").open()] for run in runs]
        right[make.__name__] = np.array([[row["accuracy"] for row in each] for each in rows])  # (seeds, items)
        asked = [(row["doc_id"], row["question"]) for row in rows[0]]
    corner = [bool(re.search(r"(top|bottom) (left|right)", question)) for _, question in asked]
    groups = {kind: [kind in key for key, _ in asked] for kind in KINDS} | {
        "corners": corner,
        "the middle row or column": [not each for each in corner],
    }
    first = right[RECIPES[0].__name__]
    for group, chosen in groups.items():
        for name, table in right.items():
            its, over = (spread(values[:, chosen]) for values in (table, table - first))
            print(f"{group:<25} {sum(chosen):>4} {name:<14} {its}, over the first {over}")


def spread(values: np.ndarray) -> str:
    """The mean of (seeds, items) in percent, with its interval."""
    rng = np.random.default_rng(0)
    drawn = [values[rng.integers(0, len(values), len(values))] for _ in range(2000)]
    means = [each[:, rng.integers(0, each.shape[1], each.shape[1])].mean() for each in drawn]
    low, high = interval(means)
    return f"{100 * values.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    """Print a row for each recipe and kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=300, help="pictures of each kind")
    parser.add_argument("--held-out", type=int, default=80, help="pictures of each kind")
    parser.add_argument("--settings", default="size=112&nouns=12", help="of the scenes")
    parser.add_argument("--decay", type=float, default=1.0)
    parser.add_argument("--store", type=Path, default=Path("runs/store"))
    parser.add_argument("--compared", type=Path, help="folder of a comparison")
    parser.add_argument("--recipes", nargs="+", default=[make.__name__ for make in RECIPES])
    asked = parser.parse_args()
    if asked.compared:
        compared(asked.compared)
        return
    torch.manual_seed(0)
    for make in (make for make in RECIPES if make.__name__ in asked.recipes):
        model = make().model.build("palme", 0)  # type: ignore[union-attr]
        model.module.requires_grad_(False)
        store = frozen_features(model.module, model.processor, asked.store, dtype="float16")
        assert store is not None
        for kind in KINDS:
            sets = [
                cells(model, store, f"scenes:{split}:{kind}?{asked.settings}&count={count}")
                for split, count in (("train", asked.train), ("val", asked.held_out))
            ]
            right = classified(*sets, decay=asked.decay)
            counts = f"{len(sets[0][1])} cells, {len(sets[1][1])} held out"
            print(f"{make.__name__:<14} {kind:<12} {counts}: {100 * right:.1f} %", flush=True)
        store.close()


if __name__ == "__main__":
    main()
