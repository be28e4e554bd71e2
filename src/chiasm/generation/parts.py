"""How a prompt is cut into parts that are read and kept, and what each of them depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from chiasm.core.batch import Batch, ImageSpan
from chiasm.core.protocols import Slotted

PASS = 2  # parts' lengths that one pass may take


def picture_keys(module: Slotted, batch: Batch) -> list[bytes]:
    """What each picture's tokens depend on, in 32 bytes: its pixels, how they are laid out, the question if it is told.

    Args:
        module: cuts the pixels.
        batch: one conversation.

    Returns:
        One key a picture.
    """
    if not batch.plans:
        return []
    told = b"" if batch.instruction_ids is None else batch.instruction_ids.cpu().numpy().tobytes()
    keys = []
    for piece, plan in zip(module.pieces(batch), batch.plans, strict=True):
        key = hashlib.blake2b(told, digest_size=32)
        key.update(repr((plan, piece.dtype, tuple(piece.shape))).encode())
        key.update(piece.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        keys.append(key.digest())
    return keys


def part_ends(spans: Sequence[ImageSpan], length: int, chunk: int) -> list[int]:
    """Where the parts of a prompt end: after every `chunk` tokens, counted anew from the end of each picture.

    Args:
        spans: of its pictures.
        length: of the prompt.
        chunk: most tokens of a part.

    Returns:
        Ends, ascending; the last is `length`.
    """
    ends, start = [], 0
    for stop in [*(span.stop for span in spans if 0 < span.stop < length), length]:
        ends += [*range(start + chunk, stop, chunk), stop]
        start = stop
    return ends


def passes(start: int, ends: Sequence[int], longest: int, pause: int | None = None) -> list[list[int]]:
    """Parts that are read in one pass: long products are faster than short ones.

    Args:
        start: of the first part.
        ends: of the parts.
        longest: most tokens of a pass of more than one part.
        pause: an end that no pass goes beyond.

    Returns:
        The ends of each pass's parts.
    """
    groups: list[list[int]] = []
    for end in ends:
        if groups and end - start <= longest and groups[-1][-1] != pause:
            groups[-1].append(end)
        else:
            start = groups[-1][-1] if groups else start
            groups.append([end])
    return groups


def part_keys(module: Slotted, batch: Batch, keys: Sequence[bytes], ends: Sequence[int]) -> dict[int, bytes]:
    """What the model's memory of each part of a prompt depends on: the part and everything before it.

    Args:
        module: reads it.
        batch: one conversation, without padding.
        keys: of its pictures.
        ends: of the parts.

    Returns:
        Key by end, ascending; the last part has none, since a reply needs one token to be read.
    """
    assert batch.input_ids is not None
    ids, found = batch.input_ids[0].cpu(), {}
    key, start = module.memory_key(batch).to_bytes(8, "little"), 0
    for end in ends[:-1]:
        now = hashlib.blake2b(key + ids[start:end].numpy().tobytes(), digest_size=32)
        for span, shown in zip(batch.spans, keys, strict=True):
            if start <= span.start < end:
                now.update(shown + span.start.to_bytes(8, "little") + span.stop.to_bytes(8, "little"))
        found[end], start = now.digest(), end
        key = found[end]
    return found
