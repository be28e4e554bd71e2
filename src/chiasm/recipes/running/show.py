"""Sample 0, as the model reads it, with what it learns in colour: the quickest way to see wrong labels."""

from __future__ import annotations

from typing import Any

import torch

from chiasm.core.batch import Batch

IGNORED = -100
MOST = 400  # tokens shown


def show_sample(processor: Any, batch: Any) -> list[Any]:
    """Lines about a batch's first sample.

    Args:
        processor: the model's.
        batch: from the feed.

    Returns:
        `rich` texts: supervised tokens green, the others dim, runs of picture slots as their number.
    """
    from rich.text import Text

    if not isinstance(batch, Batch) or batch.input_ids is None:
        return []
    if batch.labels is None:
        return [Text.assemble(("sample 0: ", "bold"), batch.prompts[0])] if batch.prompts else []
    if batch.labels.dim() == 1:  # an answer a row, not a label a token
        keep = slice(None) if batch.attention_mask is None else batch.attention_mask[0].bool()
        said = processor.tokenizer.decode(batch.input_ids[0][keep].tolist())
        return [Text.assemble(("sample 0: ", "bold"), said, (f" → answer {int(batch.labels[0])}", "green"))]
    if batch.labels.dim() == 3:  # words for each visual token
        told = [cell[cell > 0].tolist() for cell in batch.labels[0] if cell[0] > 0]
        said = ", ".join(processor.tokenizer.decode(ids) for ids in told)
        return [
            Text.assemble(
                ("sample 0: ", "bold"), f"{len(told)} of {len(batch.labels[0])} tokens learn ", (said, "green")
            )
        ]
    ids, learned, slots = _first_row(batch)
    line = Text.assemble(("sample 0, ", "bold"), ("what is learned in green", "green"), ": ")
    for kind, run in _runs(ids, learned, slots):
        if kind == "slot":
            line.append(f"<{len(run)} picture tokens>", "blue")
        else:
            line.append(processor.tokenizer.decode(run, skip_special=False), "green" if kind == "learned" else "dim")
    return [line, Text(f"{int(learned.sum())} of {len(ids)} tokens are learned", "dim")]


def _first_row(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    assert batch.input_ids is not None and batch.labels is not None
    slots = torch.zeros_like(batch.input_ids[0], dtype=torch.bool)
    for span in batch.spans:
        if span.row == 0:
            slots[span.start : span.stop] = True
    keep = torch.ones_like(slots) if batch.attention_mask is None else batch.attention_mask[0]
    return batch.input_ids[0][keep], (batch.labels[0] != IGNORED)[keep], slots[keep]


def _runs(ids: torch.Tensor, learned: torch.Tensor, slots: torch.Tensor) -> list[tuple[str, list[int]]]:
    runs: list[tuple[str, list[int]]] = []
    for number, token in enumerate(ids[:MOST].tolist()):
        kind = "slot" if slots[number] else "learned" if learned[number] else "read"
        if not runs or runs[-1][0] != kind:
            runs.append((kind, []))
        runs[-1][1].append(token)
    return runs
