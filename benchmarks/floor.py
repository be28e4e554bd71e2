"""What a token of SmolLM2-135M's size can't do without in 8 bits: ``python benchmarks/floor.py``, one thread.

Every product of one token with matrices that left the cache since, as in a reply, and the rate at which they are read.
The output layer is one long read, so its rate is what this processor's memory gives one core; all bytes at that rate
are the floor, and what the products take beyond it is their starting up, 121 times a token. Processor time.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from chiasm.nn.quantized import Int8Linear

LAYERS = 30
SHAPES = {"q, k, v": (960, 576), "output": (576, 576), "gate, up": (3072, 576), "down": (576, 1536)}
HEAD = (49152, 576)
CACHED = 2**27  # bytes of other matrices read before one comes up again


@torch.inference_mode()
def seconds(rows: int, width: int, rounds: int = 5) -> float:
    """Median processor time of a product of one token with a matrix (rows, width) that isn't in the cache."""
    layers = [Int8Linear(torch.randn(rows, width)) for _ in range(-(-CACHED // (rows * width)))]
    x, found = torch.randn(1, 1, width), []
    for _ in range(rounds):
        for layer in layers:
            start = time.process_time()
            layer(x)
            found.append(time.process_time() - start)
    return statistics.median(found)


def main() -> int:
    """Measure and print."""
    torch.set_num_threads(1)
    head = seconds(*HEAD)
    rate = HEAD[0] * HEAD[1] / head
    print(f"{'output layer':14}{1e6 * head:9.0f} µs {rate / 1e9:6.1f} GB/s")
    total, size = head, HEAD[0] * HEAD[1]
    for name, (rows, width) in SHAPES.items():
        taken = seconds(rows, width)
        total, size = total + LAYERS * taken, size + LAYERS * rows * width
        print(f"{name:14}{1e6 * taken:9.0f} µs {rows * width / taken / 1e9:6.1f} GB/s")
    print(
        f"{size / 1e6:.1f} MB a token: {1e3 * size / rate:.1f} ms at the first rate, {1e3 * total:.1f} ms as products"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
