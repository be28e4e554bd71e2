"""Yes-or-no questions: POPE (Li et al. 2023) and MME (Fu et al. 2023). What is neither yes nor no is counted apart."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

YesNo = Literal["yes", "no"]

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def parse_yes_no(reply: str) -> YesNo | None:
    """Read a reply that begins with yes or no.

    Args:
        reply: any text.

    Returns:
        ``yes``, ``no``, or None: the reply says neither, and nothing is guessed for it.
    """
    match = re.match(r"[\s\"'(*]*(yes|no|y|n)\b", reply.lower())
    if match is None:
        return None
    return "yes" if match[1].startswith("y") else "no"


def pope(replies: Sequence[YesNo | None], answers: Sequence[YesNo]) -> dict[str, float]:
    """POPE's figures of one split, with yes as the positive class.

    Args:
        replies: (N) what the model said; None counts as wrong and as no yes.
        answers: (N) the truth.

    Returns:
        ``accuracy``, ``precision``, ``recall``, ``f1``, ``yes_ratio``, each in 0..1; 0 where undefined.
    """
    pairs = list(zip(replies, answers, strict=True))
    hits = sum(reply == answer == "yes" for reply, answer in pairs)
    said, true = sum(reply == "yes" for reply, _ in pairs), sum(answer == "yes" for _, answer in pairs)
    precision, recall = hits / said if said else 0.0, hits / true if true else 0.0
    return {
        "accuracy": sum(reply == answer for reply, answer in pairs) / len(pairs) if pairs else 0.0,
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "yes_ratio": said / len(pairs) if pairs else 0.0,
    }


def mme(rights: Sequence[float], pictures: Sequence[str], categories: Sequence[str]) -> dict[str, float]:
    """MME's scores: in each category, accuracy plus the share of pictures with both questions right, times 100.

    Args:
        rights: (N) 1 or 0 a question.
        pictures: (N) the picture of each question; a category's pictures have two questions each.
        categories: (N) one of `PERCEPTION` or `COGNITION`.

    Returns:
        A score (0 to 200) a category, and their sums ``perception``, ``cognition`` and ``total``.
    """
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for right, picture, category in zip(rights, pictures, categories, strict=True):
        found[category][picture].append(right)
    scores = {}
    for category, by_picture in found.items():
        singles = [right for answers in by_picture.values() for right in answers]
        both = [all(answers) for answers in by_picture.values()]
        scores[category] = 100 * sum(singles) / len(singles) + 100 * sum(both) / len(both)
    sums = {
        "perception": sum(score for name, score in scores.items() if name in PERCEPTION),
        "cognition": sum(score for name, score in scores.items() if name not in PERCEPTION),
        "total": sum(scores.values()),
    }
    return {**scores, **sums}
