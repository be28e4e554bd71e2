"""Nano on held-out scenes, beside a blind control: ``python benchmarks/nano.py [--model nano] [--json]``.

Questions are exact and balanced by design (`chiasm.data.worlds.questions`): yes and no even, counts 1 to 5
uniform, nine positions, names uniform over the vocabulary. `test` scenes are drawn from random streams that no
training scene uses and bring together names that no training scene does; `unseen` asks for the names of pictures
that no training step saw. The blind control is the same model asked the same questions about the mean picture
(the mean of 200 training scenes), so it knows what answers are likely and nothing else.

An answer is right when it equals the true one, case, articles and the final full stop aside.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from chiasm.data.worlds.pictures import Shelf
from chiasm.data.worlds.questions import Question, sample_question
from chiasm.data.worlds.scenes import draw, sample_scene
from chiasm.evaluation.statistics import wilson

SEED = 2026
ROWS = (("naming", "test"), ("position", "test"), ("counting", "test"), ("yes_no", "test"), ("caption", "test"))
HARD = ("naming", "unseen")
LONGEST = 8  # tokens of the longest answer but captions; a longer reply is wrong anyway
Answer = Callable[[Sequence[tuple[Image.Image, str]], int], list[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table; accuracies in 0..1, `low` and `high` bound the model's at 95 %."""

    kind: str
    split: str
    count: int
    accuracy: float
    low: float
    high: float
    blind: float


def same(reply: str, answer: str) -> bool:
    """Whether a reply says the answer: case, articles and the final full stop aside."""
    return _plain(reply) == _plain(answer)


def _plain(text: str) -> str:
    return re.sub(r"^(a|an|the|some)\s+", "", text.strip().lower().rstrip(".!").strip())


def mean_picture(shelf: Shelf, scenes: int = 200, size: int = 224) -> Image.Image:
    """The mean of training scenes, as a picture."""
    total = np.zeros((size, size, 3))
    for index in range(scenes):
        total += np.asarray(draw(sample_scene(0, "train", index), shelf).resize((size, size)), dtype=np.float64)
    return Image.fromarray((total / scenes).round().astype(np.uint8))


def measure(
    answer: Answer, kind: str, split: str, count: int, shelf: Shelf, blind: Image.Image
) -> tuple[Row, list[Any]]:
    """Ask `count` questions of one kind, seeing and blind.

    Returns:
        The row, and (question, answer, reply) of every question.
    """
    asked: list[tuple[Image.Image, Question]] = []
    for index in range(count):
        scene, question = sample_question(SEED, split, index, kind)
        asked.append((draw(scene, shelf), question))
    limit = 4 * LONGEST if kind == "caption" else LONGEST
    replies = answer([(picture, question.text) for picture, question in asked], limit)
    texts = sorted({question.text for _, question in asked})
    unseeing = dict(zip(texts, answer([(blind, text) for text in texts], limit), strict=True))
    right = sum(same(reply, question.answer) for reply, (_, question) in zip(replies, asked, strict=True))
    guessed = sum(same(unseeing[question.text], question.answer) for _, question in asked)
    low, high = wilson(right, count)
    row = Row(kind=kind, split=split, count=count, accuracy=right / count, low=low, high=high, blind=guessed / count)
    return row, [(question.text, question.answer, reply) for reply, (_, question) in zip(replies, asked, strict=True)]


def run(model: Any, count: int, *, captions: int = 50) -> tuple[list[Row], dict[str, list[Any]]]:
    """The whole table for a loaded model."""
    shelf = Shelf()
    blind = mean_picture(shelf)

    def answer(questions: Sequence[tuple[Image.Image, str]], limit: int) -> list[str]:
        conversations = [
            [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": text}]}]
            for picture, text in questions
        ]
        return [reply.text for reply in model.generate(conversations, max_new_tokens=limit, batch_size=32)]

    rows, details = [], {}
    for kind, split in (*ROWS, HARD):
        row, detail = measure(answer, kind, split, captions if kind == "caption" else count, shelf, blind)
        rows.append(row)
        details[f"{kind}/{split}"] = detail
        print(f"{kind} {split} {row.accuracy:.3f} blind {row.blind:.3f}", file=sys.stderr, flush=True)
    return rows, details


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    lines = [f"{'question':<10} {'split':<7} {'n':>5} {'right':>7} {'95 %':>15} {'blind':>7} {'gain':>7}"]
    for row in rows:
        spread = f"{100 * row.low:.1f}-{100 * row.high:.1f} %"
        gain = 100 * (row.accuracy - row.blind)
        lines.append(
            f"{row.kind:<10} {row.split:<7} {row.count:>5} {100 * row.accuracy:>5.1f} % {spread:>15} "
            f"{100 * row.blind:>5.1f} % {gain:>+7.1f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table, or one JSON document with --json."""
    import chiasm

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--count", type=int, default=250, help="questions of each kind")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--details", help="write every question, answer and reply to this file")
    options = parser.parse_args()
    rows, details = run(chiasm.load(options.model), options.count)
    if options.details:
        with open(options.details, "w", encoding="utf-8") as file:
            json.dump(details, file, indent=1)
    fields = ("kind", "split", "count", "accuracy", "low", "high", "blind")
    found = {"model": options.model, "rows": [{name: getattr(row, name) for name in fields} for row in rows]}
    print(json.dumps(found) if options.json else table(rows))


if __name__ == "__main__":
    main()
