"""Your own data: any data set that training takes, asked back.

`answers` asks every row's last question and compares with its answers, `choices` takes the likeliest of a row's
choices, `likelihood` tells the perplexity of its first answer; `captions`, `retrieval`, `reranking` (retrieval whose
shortlist a matching head orders anew), `joint_reranking` (head and similarity do) and `matching` (the own caption or
the nearest other one) use its captions.
The data set is named as for training: a file or folder of any known format, or a name such as
``scenes:test:counting``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.messages import Conversation, Message, TextPart
from chiasm.core.samples import Sample
from chiasm.data.open import open_dataset
from chiasm.data.rows import Fault, readable_rows
from chiasm.evaluation.controls import frequent
from chiasm.evaluation.embedding import Retrieval
from chiasm.evaluation.matching import HardNegatives, Judged, Reranked
from chiasm.evaluation.metrics.answers import exact_match
from chiasm.evaluation.metrics.boxes import in_box
from chiasm.evaluation.metrics.choices import LETTERS
from chiasm.evaluation.metrics.language import perplexity
from chiasm.evaluation.protocol import Item, Items, Metric, Source, Task, each
from chiasm.evaluation.ranking import matching_metrics, retrieval_metrics
from chiasm.evaluation.reading import likeliest, points_in, said
from chiasm.evaluation.tasks.scenes import caption_metrics
from chiasm.processing.pictures import read_picture


def _load(make: Callable[[Sample], Item], *, different: bool = False) -> Any:
    """A loader of rows that `make` takes; `different` drops rows whose first reference was there before."""

    def load(source: Source) -> Items:
        data = open_dataset(str(source.folder))
        rows, faults = readable_rows(data)
        items: list[Item] = []
        seen: set[str] = set()
        for sample in rows:
            if source.limit is not None and len(items) == source.limit:
                break
            try:
                item = make(sample)
            except DataError as error:
                faults.append(Fault(sample.place, error.code, error.what))
                continue
            if different and item.references[0].lower() in seen:
                continue
            seen.update(text.lower() for text in item.references[:1])
            items.append(item)
        return Items(items=items, faults=list(faults), fingerprint=data.fingerprint)

    return load


def _answer(sample: Sample) -> Item:
    turns = sample.conversation.messages
    last = max((at for at, turn in enumerate(turns) if turn.role == "user"), default=-1)
    if last < 0 or not turns[last].text.strip():
        raise DataError("question_empty", "the row has no question")
    said_there = turns[last + 1].text if last + 1 < len(turns) else ""
    references = tuple(map(str, sample.annotations.get("answers", ()))) or ((said_there,) if said_there else ())
    if not references:
        raise DataError("references_missing", "the row has no answer")
    kind = str(sample.annotations.get("task") or sample.annotations.get("kind") or "")
    return Item(key=sample.key, conversation=Conversation(turns[: last + 1]), references=references, kind=kind)


def _caption(prompt: str) -> Callable[[Sample], Item]:
    def make(sample: Sample) -> Item:
        if not sample.captions:
            raise DataError("caption_empty", "the row has 0 captions")
        shown = tuple(sample.conversation.images())
        if len(shown) != 1:
            raise DataError("picture_missing", f"the row has {len(shown)} pictures, a caption has 1")
        first = sample.conversation.messages[0]
        words = prompt or (first.text.strip() if first.role == "user" else "")  # a row may ask for its caption itself
        parts = (*shown, TextPart(words)) if words else shown
        return Item(key=sample.key, conversation=Conversation((Message("user", parts),)), references=sample.captions)

    return make


def _likely(sample: Sample) -> Item:
    item = _answer(sample)
    return replace(item, options=item.references[:1])


def _choice(sample: Sample) -> Item:
    item, options = _answer(sample), tuple(map(str, sample.annotations.get("choices", ())))
    right = next((at for at, option in enumerate(options) if option in item.references), None)
    if right is None:
        raise DataError("references_missing", f"none of the row's {len(options)} choices is its answer")
    return replace(item, options=options, references=(LETTERS[right],))


def _pointed(sample: Sample) -> Item:
    boxes = list(sample.annotations.get("boxes", ()))
    if not boxes:
        raise DataError("sample_no_boxes", "the row has 0 boxes, at least 1 is needed")
    named = [box for box in boxes if box["phrase"] == boxes[0]["phrase"]]
    item = Item(key=sample.key, conversation=Conversation(sample.conversation.messages[:1]))
    size = list(read_picture(item.picture).size)
    return replace(item, truth={"boxes": named, "phrase": named[0]["phrase"], "size": size})


def _hit(item: Item, answer: Any) -> float:
    """The pointing game: the first point lies in a box of the phrase."""
    return float(bool(answer) and any(in_box(answer[0], box["box"]) for box in item.truth["boxes"]))


def _centres(items: Sequence[Item]) -> list[Any]:
    """The prior of places: the middle of each picture."""
    return [[(width / 2, height / 2)] for width, height in (item.truth["size"] for item in items)]


def _surprise(item: Item, answer: Any) -> float:
    """Mean negative log-probability of a token of the answer."""
    return -sum(answer) / len(answer)


def _perplexity(items: Sequence[Item], answers: Sequence[Any], values: Sequence[float]) -> float:
    return perplexity([answer for answer in answers if answer is not None])


TASKS = (
    Task(
        name="choices",
        about="questions of your own data with choices, the likeliest one taken",
        way="choose",
        load=_load(_choice),
        parse=likeliest,
        metrics=(Metric(name="accuracy", values=each(lambda item, answer: float(answer in item.references))),),
        prior=frequent,
    ),
    Task(
        name="likelihood",
        about="how likely the answers of your own data are",
        way="choose",
        load=_load(_likely),
        parse=lambda output, item: output[0] or None,
        metrics=(
            Metric(name="perplexity", values=each(_surprise), pool=_perplexity, percent=False, higher=False),
            Metric(name="nats_per_token", values=each(_surprise), percent=False, higher=False),
        ),
    ),
    Task(
        name="answers",
        about="questions of your own data",
        way="generate",
        load=_load(_answer),
        parse=said,
        metrics=(Metric(name="accuracy", values=each(lambda item, answer: exact_match(answer, item.references))),),
        prior=frequent,
        max_new_tokens=32,
    ),
    Task(
        name="pointing",
        about="one point in a box of what a phrase names, in your own data; the prior points at the middle",
        way="ground",
        load=_load(_pointed),
        parse=points_in,
        metrics=(Metric(name="hit", values=each(_hit)),),
        prior=_centres,
    ),
    Task(
        name="captions",
        about="captions of your own data",
        way="generate",
        load=_load(_caption("")),
        parse=said,
        metrics=caption_metrics(),
        prior=frequent,
        max_new_tokens=40,
    ),
    Task(
        name="retrieval",
        about="captions of your own data, and pictures of captions",
        way="embed",
        load=_load(_caption(""), different=True),
        prepare=Retrieval(),
        metrics=retrieval_metrics(),
    ),
    Task(
        name="reranking",
        about="retrieval on your own data, the 16 best ordered anew by the matching head",
        way="rerank",
        load=_load(_caption(""), different=True),
        prepare=Reranked(),
        metrics=retrieval_metrics(),
    ),
    Task(
        name="joint_reranking",
        about="the same by the matching head's log-odds and the scaled similarity together",
        way="rerank",
        load=_load(_caption(""), different=True),
        prepare=Reranked(joint=True),
        metrics=retrieval_metrics(),
    ),
    Task(
        name="judged_retrieval",
        about="retrieval on your own data by the matching head's scores of all pairs, which are many",
        way="match",
        load=_load(_caption(""), different=True),
        prepare=Judged(),
        metrics=retrieval_metrics(),
    ),
    Task(
        name="matching",
        about="pictures of your own data between their caption and the nearest other one",
        way="match",
        load=_load(_caption(""), different=True),
        prepare=HardNegatives(),
        metrics=matching_metrics(),
    ),
)
