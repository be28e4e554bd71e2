"""Many requests at once beside transformers: ``python benchmarks/serving.py [--json] [--threads 1] [--requests 64]``.

A LLaVA with a language model of SmolLM2-135M's size and random weights (fp32), the same on both sides.
- mixed: requests of one to three pictures (49 visual tokens each), 8 to 64 words and 8 to 96 new tokens (log-uniform)
  arrive at random, faster than they are answered. Ours writes up to 16 at once; transformers' `generate` takes up to 8
  or 16 that wait as one left-padded batch and writes until the longest is done; the better one counts.
- questions: 20 questions about one picture (256 visual tokens), and about 20 pictures; first tokens only.
- deterministic: the mixed requests through four layers of the same widths, with and without the mode; then 200 requests
  in five orders of arrival, whose replies and log-probabilities must be equal to the last bit.

All times are processor time: the clock of arrivals and latencies is the work done, not what else the machine does. With
one thread that is the time an idle core would take.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from speed import NoText, llava_shaped

from chiasm.core.batch import Batch, ImageSpan
from chiasm.core.plan import Crop, ImagePlan
from chiasm.generation.limits import Limits
from chiasm.generation.requests import Request, Ticket
from chiasm.generation.scheduler import Scheduler
from chiasm.models.packing import pack

PICTURE_ID, ROWS, STATIC = 49151, 16, (8, 16)


@dataclass(frozen=True)
class Asked:
    """One request: when it comes (seconds), its ids, its pictures, the tokens it wants."""

    arrives: float
    ids: list[int]
    spans: list[tuple[int, int]]
    pixels: torch.Tensor
    wanted: int

    def batch(self) -> Batch:
        """The prompt as our model takes it."""
        side = self.pixels.shape[-1]
        crop = Crop(resized=(side, side), offset=(0, 0), size=(side, side))
        tokens = (side // 16) ** 2
        plan = ImagePlan(source=(side, side), crops=(crop,), tokens=(side // 16, side // 16), num_tokens=tokens)
        spans = tuple(ImageSpan(0, start, stop) for start, stop in self.spans)
        return Batch(torch.tensor([self.ids]), None, self.pixels, (plan,) * len(spans), spans)


class Prepared:
    """Stands where a processor does: prompts come ready."""

    tokenizer = NoText()

    def __call__(self, asked: Sequence[Any]) -> Batch:
        """The one prompt's batch."""
        return asked[0].batch()


class Clock:
    """Processor time, and the time that is skipped while nobody asks."""

    def __init__(self) -> None:
        self._start, self._skipped = time.process_time(), 0.0

    def now(self) -> float:
        """Seconds since the start."""
        return time.process_time() - self._start + self._skipped

    def skip_to(self, moment: float) -> None:
        """Nothing happens until then."""
        self._skipped += max(0.0, moment - self.now())


def request(source: random.Random, arrives: float, pictures: Sequence[torch.Tensor], words: int, wanted: int) -> Asked:
    """A prompt: eight words, the pictures, the other words."""
    ids, spans = [source.randrange(1, 49000) for _ in range(8)], []
    for picture in pictures:
        slots = (picture.shape[-1] // 16) ** 2
        spans.append((len(ids), len(ids) + slots))
        ids += [PICTURE_ID] * slots
    ids += [source.randrange(1, 49000) for _ in range(words)]
    return Asked(arrives, ids, spans, torch.stack(list(pictures)), wanted)


def mixture(count: int, longest: int = 96, gap: float = 0.2) -> list[Asked]:
    """Requests of every length, arriving at random."""
    source, torch_source, moment, found = random.Random(0), torch.Generator().manual_seed(0), 0.0, []
    for _ in range(count):
        moment += source.expovariate(1 / gap)
        shown = [torch.randn(3, 112, 112, generator=torch_source) for _ in range(source.randint(1, 3))]
        wanted = round(math.exp(source.uniform(math.log(8), math.log(longest))))
        found.append(request(source, moment, shown, source.randint(8, 64), wanted))
    return found


def scheduler(module: Any, rows: int = ROWS, deterministic: bool = False) -> Scheduler:
    """Our engine; replies end by their length alone."""

    def limits(most: int, stop: Sequence[str]) -> Limits:
        return Limits(max_new_tokens=most, eos_ids=frozenset())

    return Scheduler(module, Prepared(), limits, rows=rows, deterministic=deterministic)


def ours(module: Any, asked: Sequence[Asked], **how: Any) -> tuple[list[Ticket], list[float], float]:
    """Answer as they come: replies, latencies, and when the last was done."""
    engine, clock = scheduler(module, **how), Clock()
    tickets: list[Ticket] = []
    done = [0.0] * len(asked)
    left = set(range(len(asked)))
    while left:
        while len(tickets) < len(asked) and asked[len(tickets)].arrives <= clock.now():
            each = asked[len(tickets)]
            tickets.append(engine.add(Request(conversation=each, max_new_tokens=each.wanted)))  # type: ignore[arg-type]
        if engine.idle:
            clock.skip_to(asked[len(tickets)].arrives)
            continue
        engine.step()
        for at in [at for at in left if at < len(tickets) and tickets[at].over]:
            done[at] = clock.now()
            left.remove(at)
    return tickets, [done[at] - each.arrives for at, each in enumerate(asked)], clock.now()


@torch.inference_mode()
def theirs(module: Any, asked: Sequence[Asked], rows: int) -> tuple[list[list[int]], list[float], float]:
    """What waits, up to `rows` of it, as one batch after another."""
    clock, at = Clock(), 0
    latencies, replies = [], []
    while at < len(asked):
        clock.skip_to(asked[at].arrives)
        part = [each for each in asked[at : at + rows] if each.arrives <= clock.now()]
        longest = max(len(each.ids) for each in part)
        ids = torch.tensor([[0] * (longest - len(each.ids)) + each.ids for each in part])
        attend = torch.tensor([[0] * (longest - len(each.ids)) + [1] * len(each.ids) for each in part])
        out = module.generate(
            input_ids=ids, attention_mask=attend, pixel_values=torch.cat([each.pixels for each in part]),
            max_new_tokens=max(each.wanted for each in part), do_sample=False,
        )  # fmt: skip
        replies += [row[longest : longest + each.wanted].tolist() for row, each in zip(out, part, strict=True)]
        latencies += [clock.now() - each.arrives for each in part]
        at += len(part)
    return replies, latencies, clock.now()


def figures(asked: Sequence[Asked], latencies: Sequence[float], end: float) -> dict[str, float]:
    """Tokens a second and the latency that 95 of 100 requests stay below."""
    tokens = sum(each.wanted for each in asked)
    return {
        "tokens_per_second": round(tokens / end, 1),
        "p95_seconds": round(statistics.quantiles(latencies, n=20)[-1], 1),
        "median_seconds": round(statistics.median(latencies), 1),
    }


def mixed(module: Any, reference: Any, count: int) -> dict[str, Any]:
    """Our engine beside the best static batch."""
    asked = mixture(count)
    tickets, latencies, end = ours(module, asked)
    mine = figures(asked, latencies, end)
    batches, agree = {}, 0
    for rows in STATIC:
        replies, waits, over = theirs(reference, asked, rows)
        batches[str(rows)] = figures(asked, waits, over)
        print(json.dumps({"so far": mine, **batches}), file=sys.stderr, flush=True)
        agree = sum(list(t.reply.token_ids) == reply for t, reply in zip(tickets, replies, strict=True))
    best = max(batches.values(), key=lambda each: each["tokens_per_second"])
    return {
        "chiasm": mine,
        "transformers by batch": batches,
        "throughput ratio": round(mine["tokens_per_second"] / best["tokens_per_second"], 2),
        "p95 ratio": round(mine["p95_seconds"] / min(each["p95_seconds"] for each in batches.values()), 2),
        "equal replies": agree,
    }


def questions(module: Any) -> dict[str, float]:
    """20 questions about one picture and about 20: processor seconds until every first token."""
    source, torch_source = random.Random(1), torch.Generator().manual_seed(1)
    shown = [torch.randn(3, 256, 256, generator=torch_source) for _ in range(20)]
    words = [source.randint(8, 24) for _ in range(20)]
    taken = {}
    for name, pictures in (("20 pictures", shown), ("one picture", shown[:1] * 20)):
        source.seed(2)
        first = [source.randrange(1, 49000) for _ in range(8)]
        asked = [request(source, 0.0, [picture], count, 1) for picture, count in zip(pictures, words, strict=True)]
        asked = [Asked(0.0, first + each.ids[8:], each.spans, each.pixels, 1) for each in asked]
        taken[name] = round(ours(module, asked, rows=8)[2], 2)
    return {**taken, "ratio": round(taken["20 pictures"] / taken["one picture"], 2)}


def bits(tickets: Sequence[Ticket]) -> list[tuple[tuple[int, ...], list[str]]]:
    """Replies to the last bit."""
    return [(tuple(t.reply.token_ids), [value.hex() for value in t.reply.logprobs]) for t in tickets]


def deterministic(module: Any, count: int) -> dict[str, Any]:
    """What the mode costs, and whether it keeps its word."""
    asked = mixture(count, gap=0.02)
    pairs = []
    for turn in range(2):
        sides = [ours(module, asked, deterministic=bool((turn + side) % 2))[2] for side in range(2)]
        pairs.append(sides if turn % 2 else sides[::-1])
    crowd, orders = mixture(200, longest=16, gap=0.02), []
    for order in range(5):
        places = list(range(200))
        random.Random(order).shuffle(places)
        moved = [Asked(crowd[at].arrives, *_what(crowd[place])) for at, place in enumerate(places)]
        tickets, _, _ = ours(module, moved, deterministic=True)
        orders.append(bits([tickets[places.index(place)] for place in range(200)]))
        print(json.dumps({"pairs": pairs, "orders": len(orders)}), file=sys.stderr, flush=True)
    plain, exact = (statistics.median(pair[side] for pair in pairs) for side in (1, 0))
    return {
        "slower by": f"{100 * (exact / plain - 1):.0f} %",
        "replies": 200,
        "orders": 5,
        "replies equal in every bit": sum(all(order[at] == orders[0][at] for order in orders) for at in range(200)),
    }


def _what(asked: Asked) -> tuple[list[int], list[tuple[int, int]], torch.Tensor, int]:
    return asked.ids, asked.spans, asked.pixels, asked.wanted


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--threads", type=int, default=1, help="threads of both sides")
    parser.add_argument("--requests", type=int, default=64, help="of the mixed part")
    parser.add_argument("--only", choices=("mixed", "questions", "deterministic"), help="one part alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()

    def packed(**shape: int) -> tuple[Any, Any]:
        module, reference = llava_shaped(**shape)
        pack(module)
        return module, reference

    parts: dict[str, Callable[[], Any]] = {
        "mixed": lambda: mixed(*packed(), options.requests),
        "questions": lambda: questions(packed(image=256)[0]),
        "deterministic": lambda: deterministic(packed(layers=4)[0], options.requests),
    }
    found = {name: part() for name, part in parts.items() if options.only in (None, name)}
    if options.json:
        print(json.dumps(found))
    else:
        for name, figure in found.items():
            print(name, json.dumps(figure, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
