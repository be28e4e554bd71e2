"""Captions judged and chosen: CapFilt's decisions (Li et al. 2022, "BLIP", §3.3), and the data set that they leave.

A row is a picture with its captions and at most one that a captioner wrote. Each caption has a score of a filter and is
kept where that reaches the threshold of its origin. Scores are rounded before they are compared, so a decision can be
checked from its line alone.

Departure: a score, not the class of a matching head, decides, so that dual encoders can be filters, too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.core.errors import ConfigError
from chiasm.core.files import write_text
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart
from chiasm.core.samples import Dataset, Place
from chiasm.data.rows import Content, Rows
from chiasm.data.stamps import digest_of

OUTCOMES = ("original", "synthetic", "both", "neither", "failed")
DIGITS = 6  # of a score
WRONG = 0.95  # share of wrong pairs that stay below a cosine's threshold where none is given


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """What a caption's score must reach.

    Attributes:
        by: what a score is, ``match`` (a probability) or ``cosine``.
        original, synthetic: the least score of a caption of that origin.
    """

    by: str
    original: float
    synthetic: float

    def __post_init__(self) -> None:
        least = 0.0 if self.by == "match" else -1.0
        for name in ("original", "synthetic"):
            if not least <= getattr(self, name) <= 1:
                what = f"the threshold of {name} captions is {getattr(self, name)}, a {self.by} lies in {least:g} to 1"
                raise ConfigError("threshold_range", what, hint="--threshold 0.5")


@dataclass(frozen=True, kw_only=True, slots=True)
class Caption:
    """One caption of a row: where it is from, its words, its score, the score it needed, whether it is kept."""

    origin: str
    text: str
    score: float
    threshold: float

    @property
    def kept(self) -> bool:
        """Whether the score reaches the threshold."""
        return self.score >= self.threshold


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What became of one row.

    Attributes:
        row: its number; None for what was found to be no row when the data was opened.
        key, place: its own.
        captions: all that were judged.
        code, reason: why it could not be judged; empty = it was.
    """

    row: int | None
    key: str
    place: Place
    captions: tuple[Caption, ...] = ()
    code: str = ""
    reason: str = ""

    @property
    def outcome(self) -> str:
        """One of `OUTCOMES`."""
        if self.code:
            return "failed"
        kept = {caption.origin for caption in self.captions if caption.kept}
        return "both" if len(kept) == 2 else next(iter(kept), "neither")

    def to_json(self) -> dict[str, Any]:
        """As the file of decisions has it."""
        told: dict[str, Any] = {"row": self.row, "key": self.key, "decision": self.outcome}
        told["source"], told["place"] = self.place.source, self.place.row
        if self.code:
            return {**told, "code": self.code, "reason": self.reason}
        captions = [
            {"origin": c.origin, "text": c.text, "score": c.score, "threshold": c.threshold, "kept": c.kept}
            for c in self.captions
        ]
        return {**told, "captions": captions}


def score_of(value: float) -> float:
    """A score as decisions hold it."""
    return round(float(value), DIGITS) + 0.0  # no negative zero


def calibrated(wrong: Sequence[float]) -> float:
    """The least threshold that `WRONG` of some wrong pairs stay below.

    Args:
        wrong: scores of pictures with captions of other pictures.

    Raises:
        ConfigError: there are none.
    """
    if not wrong:
        raise ConfigError("threshold_missing", "a cosine has no usual threshold, and 0 wrong pairs were there to find "
                          "one by", hint="--threshold 0.25")  # fmt: skip
    return score_of(np.quantile(np.asarray(wrong), WRONG, method="higher"))


def decide(
    dataset: Dataset, written: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]], thresholds: Thresholds
) -> list[Decision]:
    """Every row's decision.

    Args:
        dataset: the data.
        written: for each row ``key``, ``place``, ``originals`` and ``synthetic`` (empty = none), or ``code`` and
            ``reason`` as well.
        judged: for each row ``scores`` of originals, then synthetic; or ``code`` and ``reason``.
        thresholds: what decides.

    Returns:
        What was found to be no row first, then the rows in order.
    """
    found = [
        Decision(row=None, key="", place=fault.place, code=fault.code, reason=fault.reason)
        for fault in getattr(dataset, "faults", ())
    ]
    for row, (told, seen) in enumerate(zip(written, judged, strict=True)):
        place = Place(told["place"][0], told["place"][1])
        failed = told if "code" in told else seen if "code" in seen else None
        if failed is not None:
            one = Decision(row=row, key=told["key"], place=place, code=failed["code"], reason=failed["reason"])
            found.append(one)
            continue
        texts = [("original", text) for text in told["originals"]]
        texts += [("synthetic", text) for text in (told["synthetic"],) if text]
        captions = tuple(
            Caption(origin=origin, text=text, score=score, threshold=getattr(thresholds, origin))
            for (origin, text), score in zip(texts, seen["scores"], strict=True)
        )
        found.append(Decision(row=row, key=told["key"], place=place, captions=captions))
    return found


def count(decisions: Iterable[Decision]) -> dict[str, int]:
    """How many rows had each outcome."""
    counts = Counter(decision.outcome for decision in decisions)
    return {outcome: counts[outcome] for outcome in OUTCOMES}


def write_decisions(path: Path, decisions: Iterable[Decision]) -> None:
    """One line of JSON a row."""
    lines = (json.dumps(decision.to_json(), ensure_ascii=False, allow_nan=False) for decision in decisions)
    write_text(path, "".join(f"{line}\n" for line in lines))


class Curated(Rows):
    """The kept captions, each with its picture; the annotations say where it is from (`origin`, `score`, `key`).

    Args:
        base: the data that was judged.
        decisions: of its rows.
        together: a picture's captions are one row, the best first, for formats that store a picture with every row.
    """

    def __init__(self, base: Dataset, decisions: Sequence[Decision], *, together: bool = False) -> None:
        self.base = base
        self.kept: list[tuple[Decision, tuple[Caption, ...]]] = []
        for decision in decisions:
            own = [caption for caption in decision.captions if caption.kept]
            if together and own:
                self.kept.append((decision, tuple(sorted(own, key=lambda caption: -caption.score))))
            elif not together:
                self.kept += [(decision, (caption,)) for caption in own]
        self.name = f"{base.name}, curated"
        said = (f"{decision.row} {[(c.origin, c.text) for c in own]}" for decision, own in self.kept)
        self.fingerprint = digest_of("curated", base.fingerprint, *said)

    def __len__(self) -> int:
        return len(self.kept)

    def place(self, index: int) -> Place:
        """Where the picture of row `index` stands in the data that was judged."""
        return self.kept[index][0].place

    def key(self, index: int) -> str:
        """The judged row's key and its first caption's origin."""
        decision, (first, *_) = self.kept[index]
        return f"{decision.key}/{first.origin}"

    def content(self, index: int) -> Content:
        """Row `index`."""
        decision, own = self.kept[index]
        assert decision.row is not None
        sample = self.base[decision.row]
        picture = ImagePart(next(sample.conversation.images()).source)
        pair = (Message("user", (picture,)), Message("assistant", (TextPart(own[0].text),)))
        about = {name: value for name, value in sample.annotations.items() if name != "answers"}
        told: dict[str, Any] = {"origin": own[0].origin, "score": own[0].score}
        if len(own) > 1:
            told = {"origin": [each.origin for each in own], "score": [each.score for each in own]}
        return Content(
            conversation=Conversation(pair),
            captions=tuple(each.text for each in own),
            annotations={**about, **told, "key": decision.key},
        )
