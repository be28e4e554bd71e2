"""What examples are worth: invented names bound to things by 0, 1, 2, 4 and 8 examples, then one is asked for.

    python benchmarks/few_shot.py runs/frozen-binding runs/flamingo-binding --plot docs/few_shot.svg

Episodes of `scenes:test:binding`: two names that no training used, bound to two things that no training showed, in
other words than training's. The same episodes at every number of examples, which come from both things in turn; one
example is of either. The answer is right when it is the likelier of the two names, and when it is what the model
writes. Without examples the first is a coin's toss. Blind: the mean picture in place of every picture.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chiasm
from chiasm.core.messages import Conversation, ImagePart, Message
from chiasm.core.samples import Sample
from chiasm.data.worlds.director import World
from chiasm.data.worlds.world import Scenes
from chiasm.evaluation.charts import chart
from chiasm.evaluation.controls import mean_picture
from chiasm.evaluation.statistics import wilson

SHOTS = (0, 1, 2, 4, 8)
WAYS = 2


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


def measure(model: Any, samples: Sequence[Sample], shots: int, picture: Any = None) -> dict[str, Any]:
    """Shares right among `samples`, with 95 % Wilson intervals; nothing is written where `picture` hides the others."""
    found = [asked(sample, shots) for sample in samples]
    if picture is not None:
        found = [blinded(conversation, picture) for conversation in found]
    answers = [sample.annotations["answers"][0] for sample in samples]
    names = [sample.annotations["choices"] for sample in samples]
    chosen = sum(likelier(model, c, n) == a for c, n, a in zip(found, names, answers, strict=True))
    count = len(samples)
    told = {"shots": shots, "blind": picture is not None, "count": count, "likelier": share(chosen, count)}
    if picture is None:
        replies = model.generate(found, max_new_tokens=8, batch_size=10)
        said = sum(reply.text.strip() == answer for reply, answer in zip(replies, answers, strict=True))
        told["written"] = share(said, count)
    return told


def share(right: int, count: int) -> tuple[float, float, float]:
    """A share in per cent and its interval's ends."""
    low, high = wilson(right, count)
    return 100 * right / count, 100 * low, 100 * high


def main() -> None:
    """Print the table; draw the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--nouns", type=int, default=100, help="names that training knew")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    world = World(shots=max(SHOTS) // WAYS, ways=WAYS, nouns=options.nouns)
    samples = list(Scenes("test", ["binding"], options.count, world))
    mean = mean_picture([next(iter(sample.conversation.images())).source for sample in samples])
    series: dict[str, list[tuple[float, float]]] = {}
    rows = []
    print("| model | examples | likelier name | written | blind, likelier |\n|---|---|---|---|---|")
    for source in options.models:
        model, name = chiasm.load(source), Path(source).name
        model.remember_pictures(1024)
        for shots in SHOTS:
            seen, blind = measure(model, samples, shots), measure(model, samples, shots, mean)
            rows += [{"model": name, **told} for told in (seen, blind)]
            figures = (seen["likelier"], seen["written"], blind["likelier"])
            cells = [f"{value:.1f} % ({low:.0f}–{high:.0f})" for value, low, high in figures]
            print(f"| {name} | {shots} | {' | '.join(cells)} |", flush=True)
            for told, label in ((seen, name), (blind, f"{name}, blind")):
                series.setdefault(label, []).append((shots, told["likelier"][0]))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    if options.plot:
        drawn = chart(series, "new names from examples", "examples", "% right of two")
        options.plot.write_text(drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
