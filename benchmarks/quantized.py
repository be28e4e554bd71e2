"""What fewer bits cost: ``python benchmarks/quantized.py [--model nano] [--count 60] [--ways int8,int4]``.

The held-out questions of `benchmarks/nano.py`, asked of the model as stored and with fewer bits; the same questions, so
that differences are paired. Printed for each way: right answers of both, and how many replies are letter for letter the
same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

import chiasm
from chiasm.data.worlds.pictures import Shelf
from chiasm.data.worlds.questions import sample_question
from chiasm.data.worlds.scenes import draw

sys.path.insert(0, str(Path(__file__).parent))
import nano  # noqa: E402

KINDS = ("naming", "position", "counting", "yes_no")


def replies(model: Any, asked: list[tuple[Any, Any]]) -> list[str]:
    """One reply a question."""
    turns = [
        [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": question.text}]}]
        for picture, question in asked
    ]
    return [reply.text for reply in model.generate(turns, max_new_tokens=nano.LONGEST, batch_size=16)]


def main() -> None:
    """Ask and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--count", type=int, default=60, help="questions of each of four kinds")
    parser.add_argument("--ways", default="int8,int4")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shelf, asked = Shelf(), []
    for kind in KINDS:
        for index in range(options.count):
            scene, question = sample_question(nano.SEED, "test", index, kind)
            asked.append((draw(scene, shelf), question))
    plain = replies(chiasm.load(options.model), asked)

    def right(given: list[str]) -> int:
        return sum(nano.same(reply, question.answer) for reply, (_, question) in zip(given, asked, strict=True))

    print(f"as stored: {right(plain)} of {len(asked)} right", flush=True)
    for way in options.ways.split(","):
        given = replies(chiasm.load(options.model, quantize=way), asked)
        equal = sum(a == b for a, b in zip(given, plain, strict=True))
        print(f"{way}: {right(given)} of {len(asked)} right, {equal} replies the same", flush=True)


if __name__ == "__main__":
    main()
