"""Places and moments: RefCOCO, RefCOCO+, RefCOCOg and Charades-STA.

| task | files |
|---|---|
| `refcoco` | `refs(unc).json` and `instances.json`, COCO's train2014 pictures; `--split` val, testA or testB |
| `charades_sta` | `charades_sta_test.txt` and the videos `ID.mp4` beside it or in `videos/` |
"""

from __future__ import annotations

import re
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.messages import Conversation, Message, TextPart, VideoPart
from chiasm.data.open import open_dataset
from chiasm.data.rows import readable_rows
from chiasm.evaluation.metrics.boxes import box_hit, iou
from chiasm.evaluation.metrics.temporal import span_overlap, span_recall
from chiasm.evaluation.protocol import Item, Items, Metric, Source, Task, each
from chiasm.evaluation.reading import boxes_in, spans_in
from chiasm.evaluation.sources import asked, build, find
from chiasm.evaluation.tasks.scenes import mean_box, mean_span, true_box


def _refcoco(source: Source) -> Items:
    data = open_dataset(str(find(source, "refs*.json", "*.json")))
    rows, faults = readable_rows(data)
    items: list[Item] = []
    for sample in rows:
        split = str(sample.annotations.get("split", ""))
        if source.split and split != source.split or not source.split and split == "train":
            continue
        if source.limit is not None and len(items) == source.limit:
            break
        boxes = list(sample.annotations["boxes"])
        items.append(
            Item(
                key=sample.key,
                conversation=sample.conversation,
                kind=split,
                group=str(sample.annotations.get("image_id", "")),
                truth={"boxes": boxes, "phrase": boxes[0]["phrase"]},
            )
        )
    return Items(items=items, faults=list(faults), fingerprint=data.fingerprint)


def _charades(source: Source) -> Items:
    path = find(source, "charades_sta_{split}.txt", "charades_sta_test.txt")

    def make(name: str, row: Any) -> Item:
        match = re.fullmatch(r"(\w+) ([\d.]+) ([\d.]+)##(.*)", row["line"])
        if match is None:
            raise DataError("row_malformed", "the line isn't VIDEO START END##SENTENCE")
        start, end, words = float(match[2]), float(match[3]), asked(match[4])
        homes = (path.parent, path.parent / "videos", path.parent / "Charades_v1")
        video = next(
            (str(h / f"{match[1]}.mp4") for h in homes if (h / f"{match[1]}.mp4").is_file()), f"{match[1]}.mp4"
        )
        turn = Message("user", (VideoPart(video), TextPart(words)))
        return Item(key=name, conversation=Conversation((turn,)), group=match[1],
                    truth={"spans": [[start, end]], "phrase": words})  # fmt: skip

    lines = path.read_text(encoding="utf-8").splitlines()
    return build(path, ((at, {"line": line}) for at, line in enumerate(lines, 1) if line.strip()), make, source)


def _recall(k: int, threshold: float) -> Metric:
    def value(item: Item, answer: Any) -> float:
        return span_recall(answer, item.truth["spans"], k, threshold)

    return Metric(name=f"r@{k},iou{threshold}", values=each(value))


TASKS = (
    Task(
        name="refcoco",
        about="the box that an expression refers to",
        way="ground",
        load=_refcoco,
        parse=boxes_in,
        metrics=(
            Metric(name="acc@0.5", values=each(lambda item, answer: box_hit(answer, true_box(item)))),
            Metric(name="iou", values=each(lambda item, answer: iou(answer, true_box(item)))),
        ),
        prior=mean_box,
    ),
    Task(
        name="charades_sta",
        about="the moment of a video that a sentence describes",
        way="locate",
        load=_charades,
        parse=spans_in,
        metrics=(
            *(_recall(k, threshold) for k in (1, 5) for threshold in (0.5, 0.7)),
            Metric(name="miou", values=each(lambda item, answer: span_overlap(answer, item.truth["spans"]))),
        ),
        prior=mean_span,
    ),
)
