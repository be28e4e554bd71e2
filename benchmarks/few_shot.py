"""What examples are worth: invented names bound to things by 0, 1, 2, 4 and 8 examples, then one is asked for.

    python benchmarks/few_shot.py nano runs/frozen-binding --dtype bfloat16 --plot docs/few_shot.svg

Episodes of `scenes:test:binding`: two names that no training used, bound to two things that no scene shows, in
other words than training's. `--split unseen` takes pictures that no training saw, either. The same episodes at every
number of examples, which come from both things in turn; one example is of either. The answer is right when it is the
likelier of the two names, and when it is what the model writes. Without examples the first is a coin's toss. Blind:
the mean picture in place of every picture. Gain: the share beyond that without examples, of the same episodes, as
beyond blind.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import chiasm
from chiasm.core.messages import Conversation, ImagePart, Message
from chiasm.core.samples import Sample
from chiasm.data.worlds.director import World
from chiasm.data.worlds.world import Scenes
from chiasm.evaluation.charts import chart
from chiasm.evaluation.controls import mean_picture
from chiasm.evaluation.statistics import paired, resamples, wilson

SHOTS = (0, 1, 2, 4, 8)
WAYS = 2
FIGURES = ("likelier", "gain", "written", "blind", "beyond")


def asked(sample: Sample, shots: int) -> Conversation:
    """An episode with its first examples of each name, `shots` of them together, and its question."""
    turns = sample.conversation.messages
    examples = [turns[at : at + 2] for at in range(0, len(turns) - 2, 2)]
    most, taken, chosen = max(1, shots // WAYS), {}, []
    for example in examples:
        name = example[1].text
        if taken.get(name, 0) < most and len(chosen) < shots:
            taken[name] = taken.get(name, 0) + 1
            chosen.append(example)
    return Conversation((*(turn for example in chosen for turn in example), turns[-2]))


def blinded(conversation: Conversation, picture: Any) -> Conversation:
    """The same with one picture everywhere."""
    turns = (
        Message(turn.role, tuple(ImagePart(picture) if isinstance(part, ImagePart) else part for part in turn.parts))
        for turn in conversation.messages
    )
    return Conversation(tuple(turns))


def likelier(model: Any, conversation: Conversation, names: Sequence[str]) -> str:
    """The name whose tokens are likelier together."""
    scores = model.score([conversation] * len(names), list(names))
    return max(zip(scores, names, strict=True), key=lambda pair: sum(pair[0].logprobs))[1]


def measure(model: Any, samples: Sequence[Sample], shots: int, picture: Any = None) -> tuple[list[bool], list[bool]]:
    """Whether the likelier name is the right one, and whether the right one is written, of each of `samples`.

    Nothing is written where `picture` hides the others.
    """
    found = [asked(sample, shots) for sample in samples]
    if picture is not None:
        found = [blinded(conversation, picture) for conversation in found]
    answers = [sample.annotations["answers"][0] for sample in samples]
    names = [sample.annotations["choices"] for sample in samples]
    chosen = [likelier(model, c, n) == a for c, n, a in zip(found, names, answers, strict=True)]
    if picture is not None:
        return chosen, []
    replies = model.generate(found, max_new_tokens=8, batch_size=10)
    return chosen, [reply.text.strip() == answer for reply, answer in zip(replies, answers, strict=True)]


def told(right: Sequence[bool]) -> tuple[float, float, float]:
    """A share in per cent and its 95 % Wilson interval's ends."""
    low, high = wilson(sum(right), len(right))
    return 100 * sum(right) / len(right), 100 * low, 100 * high


def gained(right: Sequence[bool], before: Sequence[bool]) -> tuple[float, float, float]:
    """Points by which one share of the same episodes is above another, and the ends of the paired 95 % interval."""
    one, other = (100 * np.array(flags, dtype=float) for flags in (right, before))
    rows = resamples([str(row) for row in range(len(one))])
    found = paired(lambda at: one[at].mean(), lambda at: other[at].mean(), len(one), rows)
    return found["difference"], found["low"], found["high"]


def curve(model: Any, name: str, samples: Sequence[Sample], numbers: Sequence[int]) -> list[dict[str, Any]]:
    """The figures of one model at some numbers of examples, printed as they come; gains are beyond the first."""
    mean = mean_picture([next(iter(sample.conversation.images())).source for sample in samples])
    rows, before = [], None
    for shots in numbers:
        (chosen, written), (hidden, _) = measure(model, samples, shots), measure(model, samples, shots, mean)
        before = before or chosen
        row: dict[str, Any] = {"model": name, "shots": shots, "count": len(samples), "likelier": told(chosen)}
        row |= {"gain": gained(chosen, before), "written": told(written)}
        row |= {"blind": told(hidden), "beyond": gained(chosen, hidden)}
        rows.append(row)
        cells = [f"{row[key][0]:.1f} % ({row[key][1]:.0f}–{row[key][2]:.0f})" for key in FIGURES]
        print(f"| {name} | {shots} | {' | '.join(cells)} |", flush=True)
    return rows


def main() -> None:
    """Print the table; draw the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--split", default="test", choices=("test", "unseen"))
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--shots", type=int, nargs="+", default=SHOTS, choices=SHOTS)
    parser.add_argument("--nouns", type=int, default=100, help="names that training knew")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--image-tokens", type=int, help="most visual tokens for each picture")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    world = World(shots=max(SHOTS) // WAYS, ways=WAYS, nouns=options.nouns)
    samples = list(Scenes(options.split, ["binding"], options.count, world))
    print("| model | examples | likelier name | gain | written | blind, likelier | beyond blind |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for source in options.models:
        model = chiasm.load(source, dtype=options.dtype)
        model.remember_pictures(1024)
        if options.image_tokens:
            model.processor = model.processor.within(options.image_tokens)
        rows += curve(model, Path(source).name, samples, options.shots)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    if options.plot:
        options.plot.write_text(drawn(rows), "utf-8")


def drawn(rows: Sequence[dict[str, Any]]) -> str:
    """The likelier names' curves, each beside its blind one."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for key, label in (("likelier", row["model"]), ("blind", f"{row['model']}, blind")):
            series.setdefault(label, []).append((row["shots"], row[key][0]))
    svg = chart(series, "new names from examples", "examples", "% right of two")
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


if __name__ == "__main__":
    main()
