"""Memory of the contrastive losses, tiled beside plain: ``python benchmarks/contrastive.py [--batch 16384] [--json]``.

Each side runs in a process of its own, forwards and backwards in float32, and reports the peak of its resident memory
less what it held before the loss was called (inputs are there already), and the loss with its gradients' norms.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from chiasm.objectives.contrastive import TILE, info_nce, sigmoid_loss

WHOLE = 1 << 62  # a tile that holds everything: the plain loss


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def peak_of(work: Callable[[], Any]) -> tuple[Any, int]:
    """What `work` gives, and the most bytes it held beyond those held before, looked at every millisecond."""
    before, most, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            most[0] = max(most[0], resident())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = work()
    done.set()
    watcher.join()
    return result, max(most[0], resident()) - before


def side(name: str, batch: int, tile: int) -> dict[str, Any]:
    """One loss, one way."""
    generator = torch.Generator().manual_seed(0)
    x, y = (F.normalize(torch.randn(batch, 512, generator=generator), dim=-1).requires_grad_() for _ in range(2))
    scale, bias = torch.tensor(10.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)

    def work() -> torch.Tensor:
        loss = info_nce(x, y, scale, tile=tile) if name == "info_nce" else sigmoid_loss(x, y, scale, bias, tile=tile)
        loss.backward()
        return loss

    small = [F.normalize(torch.randn(64, 512), dim=-1).requires_grad_() for _ in range(2)]
    for loss_of in (info_nce(*small, 1.0, tile=tile), sigmoid_loss(*small, 1.0, 0.0, tile=tile)):
        loss_of.backward()  # libraries are read in, and take their working memory, at the first use
    start = time.perf_counter()
    loss, peak = peak_of(work)
    sample = [float(x.grad[0, 0]), float(y.grad[-1, -1]), float(scale.grad)]
    return {"peak": peak, "seconds": round(time.perf_counter() - start, 2), "loss": loss.item(), "gradients": sample}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16384)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(side(options.side[0], options.batch, int(options.side[1]))))
        return 0
    rows = {}
    for name in ("info_nce", "sigmoid"):
        both = []
        for tile in (TILE, WHOLE):
            command = [sys.executable, __file__, "--batch", str(options.batch), "--side", name, str(tile)]
            both.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        tiled, plain = both
        rows[name] = {
            "tiled": tiled,
            "plain": plain,
            "ratio": round(tiled["peak"] / plain["peak"], 4),
            "difference": abs(tiled["loss"] - plain["loss"]),
            "gradient_difference": max(abs(a - b) for a, b in zip(tiled["gradients"], plain["gradients"], strict=True)),
        }
    if options.json:
        print(json.dumps(rows))
        return 0
    for name, row in rows.items():
        mib = [round(row[way]["peak"] / 2**20) for way in ("tiled", "plain")]
        line = f"{name:10}{mib[0]:>8} MiB{mib[1]:>8} MiB  1/{1 / row['ratio']:.1f}"
        print(f"{line}   losses differ by {row['difference']:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
