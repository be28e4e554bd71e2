"""Prompts of a batch that begin alike, up to and with the same picture: read once, and gone on with for each.

Several questions about one picture share most of their prompt, since the picture stands first and is long. A causal
model's keys and values of that beginning are the same for all of them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch

from chiasm.core.batch import Batch, ImageSpan
from chiasm.nn.masks import real_tokens


@dataclass(frozen=True, slots=True)
class SharedBeginning:
    """A batch cut after its pictures.

    Attributes:
        trunk: the U different beginnings, all of one length P, without padding.
        owner: (B,) the beginning of each row.
        rest: (B, S) ids after it, padded on the left.
        attend: (B, P + S) bool, True = a real token; None = no padding.
        positions: (B, S) of the rest.
    """

    trunk: Batch
    owner: torch.Tensor
    rest: torch.Tensor
    attend: torch.Tensor | None
    positions: torch.Tensor


def shared_beginning(batch: Batch) -> SharedBeginning | None:
    """Cut a batch where its rows stop being alike.

    Args:
        batch: left-padded prompts with pixels.

    Returns:
        The cut batch; None where it would save nothing: rows without exactly one picture, beginnings of different
        length, no beginning that stands twice, or a row that ends with its picture.
    """
    ids, spans, pixels = batch.input_ids, batch.spans, batch.pixel_values
    if ids is None or not isinstance(pixels, torch.Tensor) or batch.segments is not None or batch.features is not None:
        return None
    rows, length = ids.shape
    if rows < 2 or [span.row for span in spans] != list(range(rows)) or len(batch.plans) != rows:
        return None
    pads = [0] * rows if batch.attention_mask is None else (~batch.attention_mask).sum(1).tolist()
    size = spans[0].stop - pads[0]
    ends = [span.stop for span in spans]
    if any(end - pad != size for end, pad in zip(ends, pads, strict=True)) or max(ends) >= length:
        return None
    pieces = pixels.split([len(plan.crops) for plan in batch.plans])
    keys = [
        (hashlib.blake2b(piece.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data).digest(), begun)
        for piece, begun in zip(pieces, (tuple(ids[r, pads[r] : ends[r]].tolist()) for r in range(rows)), strict=True)
    ]
    first = list({key: row for row, key in reversed(list(enumerate(keys)))}.values())[::-1]
    if len(first) == rows:
        return None
    number = {keys[row]: at for at, row in enumerate(first)}
    trunk = replace(
        batch,
        input_ids=torch.stack([ids[row, pads[row] : ends[row]] for row in first]),
        attention_mask=None,
        pixel_values=torch.cat([pieces[row] for row in first]),
        plans=tuple(batch.plans[row] for row in first),
        spans=tuple(ImageSpan(at, spans[row].start - pads[row], size) for at, row in enumerate(first)),
        labels=None,
        prompts=(),
    )
    longest = length - min(ends)
    rest = torch.full((rows, longest), int(ids[0, -1]), dtype=ids.dtype, device=ids.device)
    attend = torch.ones(rows, size + longest, dtype=torch.bool, device=ids.device)
    for row, end in enumerate(ends):
        start = longest - (length - end)
        rest[row, start:] = ids[row, end:]
        attend[row, size : size + start] = False
    positions = (attend.cumsum(1) - 1)[:, size:]
    owner = torch.tensor([number[key] for key in keys], device=ids.device)
    return SharedBeginning(trunk, owner, rest, real_tokens(attend), positions)
