"""`Batch`: everything a model needs for one forward pass, produced by a processor and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from chiasm.core.plan import ImagePlan

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Where one picture's visual tokens stand: `row` of the batch, `[start, stop)` in its unpadded ids."""

    row: int
    start: int
    stop: int


@dataclass(slots=True)
class Batch:
    """Model inputs for B conversations (or texts, or pictures).

    Attributes:
        input_ids: (B, T) int64 text ids, picture slots included; None for pictures alone.
        attention_mask: (B, T) bool, True = attend.
        pixel_values: (crops, 3, h, w) float32, every crop of every picture in reading order.
        plans: one `ImagePlan` a picture, in reading order.
        spans: one `ImageSpan` a picture, in the same order; indices count padding in.
        labels: (B, T) int64, -100 where nothing is supervised; None outside training.
        instruction_ids: (B, T′) int64, what a connector that reads the question is told; its own tokenizer's ids.
        instruction_mask: (B, T′) bool, True = a real token of it.
        source_length: columns of `input_ids` that are the prompt, for a model that reads it whole before it writes;
            None = `labels` say it.
        prompts: the rendered prompt strings, for `inspect`.
        segments: (B, T) int64, which text of a packed row a token belongs to, from 1; below 0 = padding; None = one
            text a row.
        trunks: (B, T) int64, the segment that a token sees beside its own: the beginning that several texts share.
        positions: (B, T) int64, a token's place in its own text; given with `segments`.
        features: (crops, P, D) what the frozen vision tower says of every crop; stands in for `pixel_values`.
        picture_keys: one content key a picture, where a feature store is used.
        others: (B, …) inputs of a further kind, such as spectrograms of sounds, row for row with the pictures.
    """

    input_ids: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    pixel_values: torch.Tensor | None = None
    plans: Sequence[ImagePlan] = field(default=())
    spans: Sequence[ImageSpan] = field(default=())
    labels: torch.Tensor | None = None
    instruction_ids: torch.Tensor | None = None
    instruction_mask: torch.Tensor | None = None
    source_length: int | None = None
    prompts: Sequence[str] = field(default=())
    segments: torch.Tensor | None = None
    trunks: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    features: torch.Tensor | None = None
    picture_keys: Sequence[str] = field(default=())
    others: torch.Tensor | None = None

    def features_by(self, see: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """`features` where they are given, else what `see` makes of `pixel_values`."""
        if self.features is not None:
            return self.features
        assert self.pixel_values is not None
        return see(self.pixel_values)

    def to(self, device: Any, dtype: Any = None) -> Batch:
        """The same batch with every tensor on `device`, and pixels as numbers of `dtype` where one is given."""
        moved = {}
        for item in fields(self):
            value = getattr(self, item.name)
            moved[item.name] = value.to(device) if hasattr(value, "to") else value
        if dtype is not None and self.pixel_values is not None:
            moved["pixel_values"] = moved["pixel_values"].to(dtype)
        return replace(self, **moved)
