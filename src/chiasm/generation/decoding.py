"""Answering in one call: requests through the batching engine, whole or as a stream; or one prepared batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch

from chiasm.core.batch import Batch
from chiasm.core.protocols import Generative
from chiasm.core.replies import Reply
from chiasm.generation.beam import BeamSearch
from chiasm.generation.limits import Limits
from chiasm.generation.requests import Request, Ticket
from chiasm.generation.sampling import Chooser, Sampling, check_beams
from chiasm.generation.scheduler import Scheduler
from chiasm.generation.waves import Wave, replay
from chiasm.processing.tokenizer import Tokenizer


def answer(scheduler: Scheduler, requests: Sequence[Request]) -> list[Reply]:
    """Answer requests side by side.

    Args:
        scheduler: of the model.
        requests: any number.

    Returns:
        One reply a request.

    Raises:
        ChiasmError: the first failure.
    """
    found: dict[int, Reply] = {}
    for at, result in answers(scheduler, requests):
        if isinstance(result, Exception):
            raise result
        found[at] = result
    return [found[at] for at in range(len(requests))]


def answers(scheduler: Scheduler, requests: Sequence[Request]) -> Iterator[tuple[int, Reply | Exception]]:
    """Answer requests side by side, each as soon as it is done.

    Args:
        scheduler: of the model; whoever is done makes room for the next, so that its rows stay filled.
        requests: any number.

    Yields:
        The number of a request, and its reply or why there is none.
    """
    waiting, hand = iter(enumerate(requests)), dict[int, Ticket]()
    while True:
        for at, request in islice(waiting, max(0, scheduler.room)):
            hand[at] = scheduler.add(request)
        if not hand:
            return
        scheduler.step()
        for at in [at for at, ticket in hand.items() if ticket.over]:
            result = hand.pop(at).result
            assert result is not None
            yield at, result


def stream(scheduler: Scheduler, request: Request) -> Iterator[str]:
    """Answer one request piece by piece; together the pieces are the reply's text."""
    ticket = scheduler.add(request)  # what can be refused at once is
    return _pieces(scheduler, ticket)


def _pieces(scheduler: Scheduler, ticket: Ticket) -> Iterator[str]:
    while not ticket.over:
        scheduler.step()
        if piece := ticket.fresh():
            yield piece
    assert ticket.reply


@torch.inference_mode()
def generate(
    module: Generative, batch: Batch, tokenizer: Tokenizer, limits: Limits, sampling: Sampling, num_beams: int = 1
) -> list[Reply]:
    """Answer every conversation of a batch.

    Args:
        module: what reads prompts and writes tokens.
        batch: left-padded prompts.
        tokenizer: for text and stop strings.
        limits: when replies end.
        sampling: how tokens are chosen; beams are greedy.
        num_beams: 1 = no beam search.

    Returns:
        One reply a row.

    Raises:
        ConfigError: beams asked for together with sampling or fewer than one.
    """
    check_beams(num_beams, sampling)
    assert batch.input_ids is not None
    tickets = [Ticket(limits, tokenizer, Chooser(sampling)) for _ in range(len(batch.input_ids))]
    if num_beams > 1:
        _search(module, batch, tickets, num_beams)
    else:
        wave = Wave(module, batch, tickets)
        while wave.tickets:
            wave.step()
    return [ticket.reply for ticket in tickets]


def _search(module: Generative, batch: Batch, tickets: list[Ticket], num_beams: int) -> None:
    assert batch.input_ids is not None
    for row, ticket in enumerate(tickets):
        ticket.begin(batch, row)
    steps = min(ticket.left for ticket in tickets)
    logits, state = module.prefill(batch, batch.input_ids.shape[1] + steps)
    eos = tickets[0].limits.eos_ids
    search = BeamSearch(module, logits, state, steps=steps, num_beams=num_beams, eos_ids=eos)
    while not search.step():
        pass
    for ticket, (ids, scores, ended) in zip(tickets, search.best(), strict=True):
        replay(ticket, ids, scores, ended)
