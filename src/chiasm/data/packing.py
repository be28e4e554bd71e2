"""Sequence packing: several texts in one row, each blind to the others, so that no position is padding.

A text keeps its own positions and its own attention (`nn.masks.packed_mask` of the segments), so a packed batch has
exactly the loss of the padded one. Texts that begin alike, with the same pictures, share that beginning: its tokens
stand once in the row (the trunk) and its pictures are encoded once. What follows a text's last supervised token is
left out: no loss depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import torch

from chiasm.core.batch import Batch, ImageSpan

IGNORED = -100
ATTENTION = 4096  # tokens of a row at which attention costs as much as everything else, roughly, in a small model


@dataclass(slots=True)
class _Text:
    """One unpadded row of a batch.

    Attributes:
        ids, labels: (T,).
        spans: [start, stop) of its pictures.
        pictures: their numbers in the batch.
        shared: tokens of the beginning that other texts may share; 0 = none.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    spans: list[tuple[int, int]]
    pictures: list[int]
    shared: int


@dataclass(slots=True)
class _Group:
    """Texts that share their first `shared` tokens; they stand in one row, the beginning once."""

    shared: int
    texts: list[_Text] = field(default_factory=list)

    @property
    def length(self) -> int:
        return self.shared + sum(len(text.ids) - self.shared for text in self.texts)


def pack(batch: Batch, capacity: int) -> Batch:
    """Lay a padded batch out in rows of several texts, so that they cost the least.

    Args:
        batch: from a processor, with `labels`; its rows may be padded on either side.
        capacity: most tokens of a row; a text that is longer gets a longer row of its own.

    Returns:
        The packed batch: `segments`, `trunks` and `positions` (R, T) beside `input_ids` and `labels`; pictures that
        several texts share are there once. `prompts` stay one a text.
    """
    texts = _texts(batch)
    rows = _tightest(_groups(texts, _picture_names(batch), capacity), capacity)
    length = max(sum(group.length for group in row) for row in rows)
    out = _Rows(len(rows), length, texts[0].ids)
    for number, row in enumerate(rows):
        start = 0
        for group in row:
            start = out.place(number, start, group)
    kept = [picture for picture, _ in out.spans]
    crops = [crop for picture in kept for crop in _crops(batch, picture)]
    return replace(
        batch,
        input_ids=out.ids,
        labels=out.labels,
        attention_mask=out.segments >= 0,
        segments=out.segments,
        trunks=out.trunks,
        positions=out.positions,
        spans=tuple(span for _, span in out.spans),
        plans=tuple(batch.plans[picture] for picture in kept),
        picture_keys=tuple(batch.picture_keys[picture] for picture in kept) if batch.picture_keys else (),
        pixel_values=None if batch.pixel_values is None else batch.pixel_values[crops],
        features=None if batch.features is None else batch.features[crops],
    )


class _Rows:
    """The tensors of a packed batch while texts are put in."""

    def __init__(self, rows: int, length: int, like: torch.Tensor) -> None:
        self.ids = like.new_zeros(rows, length)
        self.labels = torch.full_like(self.ids, IGNORED)
        self.segments = torch.full_like(self.ids, -1)
        self.trunks = torch.full_like(self.ids, -1)
        self.positions = torch.zeros_like(self.ids)
        self.spans: list[tuple[int, ImageSpan]] = []
        self._next = [1] * rows

    def place(self, row: int, start: int, group: _Group) -> int:
        """Put a group into a row from column `start` on; returns the column after it."""
        trunk = self._next[row]
        if group.shared:
            start = self._put(row, start, group.texts[0], 0, group.shared, trunk)
        for text in group.texts:
            start = self._put(row, start, text, group.shared, len(text.ids), trunk)
        return start

    def _put(self, row: int, start: int, text: _Text, first: int, last: int, trunk: int) -> int:
        here = slice(start, start + last - first)
        self.ids[row, here] = text.ids[first:last]
        self.labels[row, here] = text.labels[first:last]
        self.labels[row, start] = IGNORED  # what stands to the left belongs to another text and can't predict it
        self.segments[row, here] = self._next[row]
        self.trunks[row, here] = trunk
        self.positions[row, here] = torch.arange(first, last)
        for (begin, stop), picture in zip(text.spans, text.pictures, strict=True):
            if first <= begin < last:
                self.spans.append((picture, ImageSpan(row, start + begin - first, start + stop - first)))
        self._next[row] += 1
        return here.stop


def _texts(batch: Batch) -> list[_Text]:
    assert batch.input_ids is not None and batch.labels is not None
    ids, labels = batch.input_ids, batch.labels
    real = torch.ones_like(ids, dtype=torch.bool) if batch.attention_mask is None else batch.attention_mask
    texts = []
    for row in range(len(ids)):
        columns = real[row].nonzero()[:, 0]
        first = int(columns[0])
        own = [(number, span) for number, span in enumerate(batch.spans) if span.row == row]
        learned = (labels[row] != IGNORED).nonzero()[:, 0]
        end = max([int(learned[-1]) + 1] + [span.stop for _, span in own]) - first
        columns = columns[:end]
        spans = [(span.start - first, span.stop - first) for _, span in own]
        shared = max((stop for _, stop in spans), default=0)
        if int(learned[0]) - first <= shared:  # the next token is supervised, and its predictor must stand beside it
            shared = 0
        texts.append(_Text(ids[row, columns], labels[row, columns], spans, [number for number, _ in own], shared))
    return texts


def _picture_names(batch: Batch) -> list[str]:
    """One name a picture, equal for equal pictures."""
    if batch.picture_keys:
        return list(batch.picture_keys)
    values = batch.pixel_values if batch.pixel_values is not None else batch.features
    if values is None:
        return [str(number) for number in range(len(batch.spans))]
    return [
        blake2b(values[_crops(batch, picture)].contiguous().numpy().tobytes(), digest_size=16).hexdigest()
        for picture in range(len(batch.plans))
    ]


def _crops(batch: Batch, picture: int) -> list[int]:
    """Where a picture's crops stand in `pixel_values`."""
    start = sum(len(plan.crops) for plan in batch.plans[:picture])
    return list(range(start, start + len(batch.plans[picture].crops)))


def _groups(texts: Sequence[_Text], names: Sequence[str], capacity: int) -> list[_Group]:
    """Texts with one beginning together, in as many groups as capacity asks for."""
    groups: list[_Group] = []
    open_groups: dict[tuple[object, ...], _Group] = {}
    for text in texts:
        if not text.shared:
            groups.append(_Group(0, [text]))
            continue
        alike = (tuple(text.ids[: text.shared].tolist()), *(names[picture] for picture in text.pictures))
        group = open_groups.get(alike)
        if group is None or group.length + len(text.ids) - text.shared > capacity:
            group = open_groups[alike] = _Group(text.shared)
            groups.append(group)
        group.texts.append(text)
    for group in groups:
        if len(group.texts) == 1:
            group.shared = 0  # a trunk of one text is a part of it
    return groups


def _tightest(groups: Sequence[_Group], capacity: int) -> list[list[_Group]]:
    """The cheapest rows of at most `capacity`: no fuller rows help if one long row leaves the others half empty."""
    longest, total = max(group.length for group in groups), sum(group.length for group in groups)
    most = max(capacity, longest)
    even = {-(-total * slack // (100 * count)) for count in range(1, len(groups) + 1) for slack in (100, 104, 110)}
    tried = [_first_fit(groups, size) for size in sorted({longest, most, *even}) if longest <= size <= most]
    return min(tried, key=_cost)


def _cost(rows: Sequence[Sequence[_Group]]) -> float:
    """Positions computed, those of padding too, and what attention adds for the length of a row."""
    length = max(sum(group.length for group in row) for row in rows)
    return len(rows) * length * (1 + length / ATTENTION)


def _first_fit(groups: Sequence[_Group], capacity: int) -> list[list[_Group]]:
    """Rows of at most `capacity` tokens (or one group): longest groups first, each into the first row it fits."""
    rows: list[list[_Group]] = []
    left: list[int] = []
    for group in sorted(groups, key=lambda group: -group.length):
        fits = next((row for row, room in enumerate(left) if room >= group.length), None)
        if fits is None:
            rows.append([group])
            left.append(capacity - group.length)
        else:
            rows[fits].append(group)
            left[fits] -= group.length
    return rows
