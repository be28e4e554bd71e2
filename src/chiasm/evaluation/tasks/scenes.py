"""Generated scenes with exact truth: questions, captions, boxes, points and moments. Needs no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chiasm.core.messages import Conversation
from chiasm.data.named import open_named
from chiasm.evaluation.controls import frequent
from chiasm.evaluation.metrics.answers import exact_match
from chiasm.evaluation.metrics.boxes import box_hit, in_box, iou, pointing
from chiasm.evaluation.metrics.captions import bleu, cider_d, rouge_l, tokenized
from chiasm.evaluation.metrics.temporal import span_overlap, span_recall
from chiasm.evaluation.protocol import Item, Items, Metric, Source, Task, each
from chiasm.evaluation.reading import boxes_in, points_in, said, spans_in

QUESTIONS, DEFAULT = ("naming", "position", "counting", "yes_no"), 400


def load(kinds: Sequence[str]) -> Any:
    """A loader of held-out scenes with questions of some kinds, in turn."""

    def find(source: Source) -> Items:
        data = open_named(f"scenes:{source.split or 'test'}:{','.join(kinds)}?count={source.limit or DEFAULT}")
        items = []
        for sample in data:
            truth = {
                name: sample.annotations[name]
                for name in ("boxes", "points", "spans", "phrase")
                if name in sample.annotations
            }
            if "phrase" not in truth and "boxes" in truth:  # the question holds more words than what is looked for
                truth["phrase"] = truth["boxes"][0]["phrase"]
            item = Item(
                key=sample.key,
                conversation=Conversation(sample.conversation.messages[:1]),
                references=tuple(map(str, sample.annotations["answers"])),
                kind=sample.annotations["task"],
                truth=truth,
            )
            items.append(item)
        return Items(items=items, fingerprint=data.fingerprint)

    return find


def caption_metrics() -> tuple[Metric, ...]:
    """CIDEr-D first, then BLEU-4 and ROUGE-L; a caption that is missing counts as empty."""

    def texts(answers: Sequence[Any]) -> list[str]:
        return ["" if answer is None else str(answer) for answer in answers]

    def cider(items: Sequence[Item], answers: Sequence[Any]) -> list[float | None]:
        return [*cider_d(*tokenized(texts(answers), [item.references for item in items]))]

    def rouge(items: Sequence[Item], answers: Sequence[Any]) -> list[float | None]:
        pairs = zip(*tokenized(texts(answers), [item.references for item in items]), strict=True)
        return [rouge_l(candidate, references) for candidate, references in pairs]

    def bleu_values(items: Sequence[Item], answers: Sequence[Any]) -> list[float | None]:
        return [single[3] for single in bleu(*tokenized(texts(answers), [item.references for item in items]))[1]]

    def bleu_pool(items: Sequence[Item], answers: Sequence[Any], values: Sequence[float]) -> float:
        return bleu(*tokenized(texts(answers), [item.references for item in items]))[0][3]

    return (
        Metric(name="cider_d", values=cider),
        Metric(name="rouge_l", values=rouge),
        Metric(name="bleu_4", values=bleu_values, pool=bleu_pool),
    )


def true_box(item: Item) -> Any:
    """The one true box of an item."""
    return item.truth["boxes"][0]["box"]


def _pointing(name: str) -> Metric:
    def value(item: Item, answer: Any) -> float:
        return pointing(answer, [each["box"] for each in item.truth["boxes"]], in_box)[name]  # type: ignore[arg-type]

    return Metric(name=name, values=each(value))


def mean_box(items: Sequence[Item]) -> list[Any]:
    """The prior of boxes: the mean true box, for every item."""
    boxes = [true_box(item) for item in items]
    mean = [sum(column) / len(boxes) for column in zip(*boxes, strict=True)] if boxes else None
    return [mean for _ in items]


def _one_point(items: Sequence[Item]) -> list[Any]:
    boxes = mean_box(items)
    return [None if box is None else [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)] for box in boxes]


def mean_span(items: Sequence[Item]) -> list[Any]:
    """The prior of moments: the mean true span, for every item."""
    firsts = [item.truth["spans"][0] for item in items]
    mean = [sum(column) / len(firsts) for column in zip(*firsts, strict=True)] if firsts else None
    return [[mean] for _ in items]


def _right(item: Item, answer: Any) -> float:
    return exact_match(answer, item.references)


TASKS = (
    Task(
        name="scenes",
        group="scenes",
        about="names, positions, counts and presence in held-out generated scenes",
        way="generate",
        load=load(QUESTIONS),
        parse=said,
        metrics=(Metric(name="accuracy", values=each(_right)),),
        prior=frequent,
        max_new_tokens=10,
        needs_folder=False,
    ),
    Task(
        name="scenes_captions",
        group="scenes",
        about="captions of held-out generated scenes",
        way="generate",
        load=load(("describe",)),
        parse=said,
        metrics=caption_metrics(),
        prior=frequent,
        max_new_tokens=40,
        needs_folder=False,
    ),
    Task(
        name="scenes_boxes",
        group="scenes",
        about="the box of what a phrase names, in generated scenes",
        way="ground",
        load=load(("referring",)),
        parse=boxes_in,
        metrics=(
            Metric(name="acc@0.5", values=each(lambda item, answer: box_hit(answer, true_box(item)))),
            Metric(name="iou", values=each(lambda item, answer: iou(answer, true_box(item)))),
        ),
        prior=mean_box,
        needs_folder=False,
    ),
    Task(
        name="scenes_points",
        group="scenes",
        about="a point on each thing of a name, in generated scenes",
        way="ground",
        load=load(("points",)),
        parse=points_in,
        metrics=tuple(_pointing(name) for name in ("f1", "precision", "recall", "count")),
        prior=_one_point,
        needs_folder=False,
    ),
    Task(
        name="scenes_moments",
        group="scenes",
        about="when something is seen in a generated film",
        way="locate",
        load=load(("temporal",)),
        parse=spans_in,
        metrics=(
            Metric(name="r@1,iou0.5", values=each(lambda i, a: span_recall(a, i.truth["spans"], 1, 0.5))),
            Metric(name="r@1,iou0.7", values=each(lambda i, a: span_recall(a, i.truth["spans"], 1, 0.7))),
            Metric(name="miou", values=each(lambda i, a: span_overlap(a, i.truth["spans"]))),
        ),
        prior=mean_span,
        needs_folder=False,
    ),
)
