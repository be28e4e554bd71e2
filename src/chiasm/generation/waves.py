"""Replies that began together: one left-padded batch, which they leave one by one.

The way of models whose replies can't share a cache by rows (`Slotted`): encoder–decoders, gated cross-attention,
writers that attend to a second stream. Beam search is a wave of one request by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from chiasm.core.batch import Batch
from chiasm.core.protocols import DecodingState, Generative
from chiasm.generation.beam import BeamSearch
from chiasm.generation.requests import Ticket
from chiasm.generation.sampling import Drawn


class Wave:
    """Sampled or greedy replies to the rows of one batch.

    Args:
        module: what reads and writes.
        batch: left-padded prompts.
        tickets: one a row.

    Raises:
        PromptError: context_exceeded, for the first prompt that fills the context.
    """

    def __init__(self, module: Generative, batch: Batch, tickets: Sequence[Ticket]) -> None:
        assert batch.input_ids is not None
        for row, ticket in enumerate(tickets):
            ticket.begin(batch, row)
        self.module, self.tickets = module, list(tickets)
        capacity = batch.input_ids.shape[1] + max(ticket.left for ticket in tickets)
        self._logits: torch.Tensor
        self._state: DecodingState
        self._logits, self._state = module.prefill(batch, capacity)
        self._last: torch.Tensor | None = None

    def step(self) -> None:
        """One more token for every reply; those that are over have left."""
        self._drop()
        if not self.tickets:
            return
        if self._last is not None:
            self._logits = self.module.decode(self._last, self._state)
        drawn = [ticket.chooser.choose(row) for ticket, row in zip(self.tickets, self._logits.split(1), strict=True)]
        for ticket, token in zip(self.tickets, drawn, strict=True):
            ticket.take(token)
        self._last = torch.tensor([token.token_id for token in drawn], device=self._logits.device)
        self._drop()

    def _drop(self) -> None:
        going = [at for at, ticket in enumerate(self.tickets) if not ticket.over]
        if len(going) == len(self.tickets):
            return
        self.tickets = [self.tickets[at] for at in going]
        if not going:
            return
        keep = torch.tensor(going, device=self._logits.device)
        self._state.select(keep)
        self._logits = self._logits[keep]
        if self._last is not None:
            self._last = self._last[keep]


class BeamWave:
    """Beam search for one request.

    Args:
        module, batch: as for `Wave`; the batch has one row.
        ticket: of the request.
        num_beams: K.
    """

    def __init__(self, module: Generative, batch: Batch, ticket: Ticket, num_beams: int) -> None:
        ticket.begin(batch, 0)
        assert batch.input_ids is not None
        logits, state = module.prefill(batch, batch.input_ids.shape[1] + ticket.left)
        self.tickets, self._eos = [ticket], ticket.limits.eos_ids
        self._search = BeamSearch(module, logits, state, steps=ticket.left, num_beams=num_beams, eos_ids=self._eos)

    def step(self) -> None:
        """One more token for every beam."""
        if self.tickets[0].over:
            self.tickets = []
        elif self._search.step():
            (ids, scores, ended), ticket = self._search.best()[0], self.tickets.pop()
            replay(ticket, ids, scores, ended)


def replay(ticket: Ticket, ids: Sequence[int], scores: Sequence[float], ended: bool) -> None:
    """Bring a reply to what a search has found for it.

    Args:
        ticket: of the reply.
        ids, scores: its tokens and their log-probabilities.
        ended: whether the model ended it.
    """
    ticket.left = len(ids)
    for token_id, score in zip(ids, scores, strict=True):
        ticket.take(Drawn(token_id, score))
        if ticket.running.finish_reason == "stop":
            break
    if ended:
        ticket.running.finish_reason = "stop"
    ticket.finish()
