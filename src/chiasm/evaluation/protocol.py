"""What tasks, models and reports agree on: items, predictors, metrics, tasks.

A task sees a `Predictor`, never a family's class. It asks once; what was answered is kept, and everything after it
(reading the answer, scoring, controls, report) can be done again from the files alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from chiasm.core.errors import ChiasmError
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart, VideoPart
from chiasm.data.rows import Fault

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Way = Literal["generate", "choose", "ground", "locate", "embed", "match", "rerank"]
# what a model must be able to do for each way of asking; of several alternatives one
NEEDS: dict[Way, tuple[frozenset[str], ...]] = {
    "generate": (frozenset({"generate"}),),
    "choose": (frozenset({"score"}),),
    "ground": (frozenset({"ground"}),),
    "locate": (frozenset({"locate"}),),
    "embed": (frozenset({"embed"}),),
    "match": (frozenset({"match"}), frozenset({"embed"})),
    "rerank": (frozenset({"embed", "match"}),),
}
AT_ONCE: tuple[Way, ...] = ("embed", "match", "rerank")  # ways in which items are compared with each other


def needed(way: Way) -> str:
    """What a way of asking needs, in words."""
    return " or ".join(" and ".join(sorted(each)) for each in NEEDS[way])


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question.

    Attributes:
        key: unique in its task and stable.
        conversation: what the model is shown; it ends with a user's turn.
        references: accepted answers as texts; empty where the truth is a place (`truth`).
        kind: the report breaks scores down by it.
        options: texts of the options, first ``A``; empty for open questions.
        group: items of one group aren't independent (questions about one picture); intervals resample groups.
        truth: whatever else the metrics need, as JSON values: ``box``, ``points``, ``spans``, ``people``, ….
    """

    key: str
    conversation: Conversation
    references: tuple[str, ...] = ()
    kind: str = ""
    options: tuple[str, ...] = ()
    group: str = ""
    truth: Mapping[str, Any] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The last user turn's words."""
        return self.conversation.messages[-1].text if self.conversation.messages else ""

    @property
    def picture(self) -> Any:
        """The source of the last picture or video shown, or None."""
        found = [
            part.source
            for message in self.conversation.messages
            for part in message.parts
            if isinstance(part, (ImagePart, VideoPart))
        ]
        return found[-1] if found else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """The items of a task, what could not become one, and a fingerprint of the data."""

    items: Sequence[Item]
    faults: Sequence[Fault] = ()
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a task's data is.

    Attributes:
        folder: the user's copy in the published format, or a data set's name; None for tasks that need none.
        split: which part, where there are several.
        limit: at most so many items; None = all.
    """

    folder: Path | str | None = None
    split: str | None = None
    limit: int | None = None


class Predictor(Protocol):
    """A model as evaluation sees it. Methods for capabilities that it lacks are never called.

    Attributes:
        name: for people.
        capabilities: of `generate`, `score`, `embed`, `match`, `ground`, `locate`.
    """

    name: str
    capabilities: frozenset[str]

    def generate(
        self, conversations: Sequence[Conversation], max_new_tokens: int
    ) -> Iterator[tuple[int, str | ChiasmError]]:
        """As they are done, the number of a conversation and its reply, or why there is none; a reply doesn't depend on
        what else is asked with it."""

    def score(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[list[float]]:
        """Log-probabilities of each answer's tokens."""

    def embed_images(self, images: Sequence[Any]) -> np.ndarray:
        """(N, E) float32, L2-normalised."""

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, E) float32, L2-normalised."""

    def match(self, images: Sequence[Any], texts: Sequence[str]) -> Sequence[float]:
        """Probability that picture n and text n belong together."""

    def similarity_scale(self) -> float:
        """What cosines are multiplied by in the softmax of a model that embeds and matches."""

    def ground(self, image: Any, phrase: str) -> dict[str, Any]:
        """``boxes`` and ``points`` in original pixels, best first."""

    def locate(self, video: Any, query: str) -> list[list[float]]:
        """(start, end) in seconds, best first."""

    def seen(self, conversation: Conversation) -> list[Image.Image]:
        """The pictures of a conversation as the model sees them."""

    def length(self, conversation: Conversation) -> int:
        """Roughly how long a prompt is; items of like length are asked together."""

    def manifest(self) -> dict[str, Any]:
        """Weights, pixel and token settings, template: everything that decides an answer."""


Values = Callable[[Sequence[Item], Sequence[Any]], Sequence[float | None]]
Pool = Callable[[Sequence[Item], Sequence[Any], Sequence[float]], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One figure.

    Attributes:
        name: as the results file has it.
        values: items and their parsed answers (None = a parse failure) → a value each; None = the sample is invalid
            (a judge failed) and leaves every figure of this metric.
        pool: items, answers and values → the figure; None = the mean.
        percent: shown times 100.
        higher: whether more is better.
        shown: stands in comparisons' tables beside the headline.
    """

    name: str
    values: Values
    pool: Pool | None = None
    percent: bool = True
    higher: bool = True
    shown: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One benchmark.

    Attributes:
        name: as people call it.
        about: one line.
        way: how the model is asked.
        load: finds its items in a `Source`.
        metrics: the first is the headline.
        parse: (raw output, item) → the answer, or None: it can't be read, and nothing is guessed.
        prior: items → the answers of somebody who only knows which are frequent; None = no such control.
        max_new_tokens: of a reply.
        version: goes up when the same replies would score differently.
        prepare: for tasks whose items are compared: how vectors and scores become outputs (`embedding`, `matching`).
        group: the name that asks for this task together with others; empty = its own.
        needs_folder: whether the user's copy of the data is needed.
    """

    name: str
    about: str
    way: Way
    load: Callable[[Source], Items]
    metrics: tuple[Metric, ...]
    parse: Callable[[Any, Item], Any] = lambda output, item: output
    prior: Callable[[Sequence[Item]], Sequence[Any]] | None = None
    max_new_tokens: int = 16
    version: int = 1
    prepare: Any = None
    group: str = ""
    needs_folder: bool = True


def each(value: Callable[[Item, Any], float | None]) -> Values:
    """A metric's `values` from a rule for one item; an answer that could not be read scores 0."""

    def values(items: Sequence[Item], answers: Sequence[Any]) -> list[float | None]:
        return [0.0 if a is None else value(item, a) for item, a in zip(items, answers, strict=True)]

    return values


def ask(picture: Any, text: str) -> Conversation:
    """One user turn: a picture (or several, or None) and words."""
    shown = [] if picture is None else picture if isinstance(picture, list) else [picture]
    return Conversation((Message("user", (*(ImagePart(each) for each in shown), TextPart(text))),))
