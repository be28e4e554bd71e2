"""Splice fusion for an encoder–decoder: visual tokens take their slots in the encoder's input, the decoder writes.

The prefix language modelling of BLIP-2's second stage over Flan-T5 (Li et al. 2023, §3.3). A batch holds prompt and
reply in one row of ids; `sides` tells them apart, and states and logits come back in the same columns, so that losses
and scores are written once for all families.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chiasm.core.batch import Batch
from chiasm.fusion.splice import SplicedLM
from chiasm.language.encoder_decoder import EncoderDecoder
from chiasm.nn.cache import Cache
from chiasm.nn.fusion_blocks import Context
from chiasm.nn.masks import real_tokens

IGNORED = -100


@dataclass(slots=True)
class Seq2SeqState:
    """A running decode: the reply's cache, and the prompt's keys and values for every layer."""

    cache: Cache
    context: Context

    def select(self, rows: torch.Tensor) -> None:
        """Keep the sequences `rows` (B′,), in that order."""
        self.cache.select(rows)
        self.context.select(rows)


class SplicedSeq2Seq(SplicedLM):
    """vision → connector → the encoder's input; the decoder's replies."""

    language: EncoderDecoder  # type: ignore[assignment]

    def __init__(self, vision: nn.Module, connector: nn.Module, language: EncoderDecoder) -> None:
        nn.Module.__init__(self)
        self.vision, self.connector, self.language = vision, connector, language

    def sides(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Which columns are prompt and which are reply.

        Args:
            batch: `input_ids` (B, T) with `labels` (the reply is what they supervise) or `source_length` (the reply is
                what stands behind); with neither, all is prompt.

        Returns:
            Two (B, T) bool tensors; padding is in neither.
        """
        assert batch.input_ids is not None
        real = torch.ones_like(batch.input_ids, dtype=torch.bool)
        if batch.attention_mask is not None:
            real = batch.attention_mask.bool()
        if batch.labels is not None:
            reply = batch.labels != IGNORED
        else:
            columns = torch.arange(real.shape[1], device=real.device)
            stop = real.shape[1] if batch.source_length is None else batch.source_length
            reply = (columns >= stop).expand_as(real)
        return real & ~reply, real & reply

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Final hidden states of the decoder, each in the column before the token that it predicts.

        Args:
            batch: see `sides` and `SplicedLM.embed`.

        Returns:
            (B, T, D), zeros elsewhere.
        """
        assert batch.input_ids is not None
        prompt, reply = self.sides(batch)
        embeds, attend = _compact(self.embed(batch), prompt)
        context = self.language.context(self.language.encode(embeds, attend), attend)
        ids, real = _compact(batch.input_ids, reply)
        start = ids.new_full((len(ids), 1), self.language.config.start_id)
        states = self.language(torch.cat((start, ids.masked_fill(~real, 0)), 1), context)  # (B, 1 + replies, D)
        # state j predicts the reply's token j; the state after the last token stands in that token's own column
        row, column = reply.nonzero(as_tuple=True)
        rank, counts = reply.cumsum(1) - 1, reply.sum(1)
        rows, end = torch.arange(len(ids), device=ids.device), reply.shape[1] - 1
        last = torch.where(counts > 0, end - reply.flip(1).int().argmax(1), end)
        out = states.new_zeros(*batch.input_ids.shape, states.shape[-1])
        where = (torch.cat((row, rows)), torch.cat((column - 1, last)))
        return out.index_put(where, torch.cat((states[row, rank[row, column]], states[rows, counts])))

    def prefill(self, batch: Batch, capacity: int) -> tuple[torch.Tensor, Seq2SeqState]:  # type: ignore[override]
        """Read prompts.

        Args:
            batch: see `SplicedLM.embed`; all of it is prompt.
            capacity: most positions of prompt and reply together.

        Returns:
            (B, V) logits of the reply's first token, and the state to go on from.
        """
        assert batch.input_ids is not None
        rows, length = batch.input_ids.shape
        attend = real_tokens(batch.attention_mask)
        context = self.language.context(self.language.encode(self.embed(batch), attend), attend)
        state = Seq2SeqState(self.language.new_cache(rows, capacity - length + 1), context)
        start = batch.input_ids.new_full((rows,), self.language.config.start_id)
        return self.decode(start, state), state

    def new_slots(self) -> None:
        """None: each reply also reads its own prompt, whose length differs."""
        return None

    def decode(self, token_ids: torch.Tensor, state: Seq2SeqState) -> torch.Tensor:  # type: ignore[override]
        """One more token: (B,) ids → (B, V) logits of the token after it; the state moves on in place."""
        hidden = self.language(token_ids[:, None], state.context, state.cache)
        return self.language.logits(hidden[:, -1])


def _compact(values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a mask marks in each row, moved to the front: the distances between tokens must have no gaps.

    Args:
        values: (B, T, …).
        mask: (B, T) bool.

    Returns:
        (B, most, …) values, and (B, most) bool, True = a marked one.
    """
    most = int(mask.sum(1).max())
    order = (~mask).int().argsort(dim=1, stable=True)[:, :most]  # (B, most)
    rows = torch.arange(len(mask), device=mask.device)[:, None]
    return values[rows, order], mask[rows, order]
