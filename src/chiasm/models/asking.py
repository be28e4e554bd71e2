"""What `Model` does for families that write: requests from what was asked, and beams, which no scheduler has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from chiasm.core.constraints import parse_constraint
from chiasm.core.errors import PromptError
from chiasm.core.messages import parse_conversation
from chiasm.core.protocols import Generative
from chiasm.core.replies import Reply
from chiasm.generation.decoding import generate
from chiasm.generation.limits import Limits
from chiasm.generation.requests import Request
from chiasm.generation.sampling import Sampling
from chiasm.processing.processor import Processor


def requests_for(
    given: Sequence[Any],
    max_new_tokens: int,
    sampling: Sampling,
    seed: int | Sequence[int] | None,
    num_beams: int,
    stop: str | Sequence[str] | None,
    constraint: Any,
) -> list[Request]:
    """One request a conversation.

    Args:
        given: conversations, in whatever form.
        sampling: of all, but for the seed.
        max_new_tokens, seed, num_beams, stop, constraint: as for `Model.generate`.

    Raises:
        PromptError: seeds and conversations that differ in number, or a conversation that is none.
    """
    seeds = list(seed) if isinstance(seed, Sequence) else [seed] * len(given)
    if len(seeds) != len(given):
        raise PromptError("seed_count", f"{len(given)} conversations, {len(seeds)} seeds")
    return [
        Request(
            conversation=parse_conversation(item),
            sampling=replace(sampling, seed=own),
            max_new_tokens=max_new_tokens,
            stop=tuple(as_list(stop) if stop is not None else ()),
            num_beams=num_beams,
            constraint=parse_constraint(constraint),
        )
        for item, own in zip(given, seeds, strict=True)
    ]


def search_beams(
    module: Generative,
    processor: Processor,
    limits: Callable[[int, Sequence[str]], Limits],
    device: torch.device,
    requests: Sequence[Request],
    batch_size: int,
) -> list[Reply]:
    """The best beam of each request; all have the first one's sampling, limits and number of beams.

    Args:
        module, processor, limits, device: the model's.
        requests: what is asked.
        batch_size: most requests side by side.
    """
    replies: list[Reply] = []
    for at in range(0, len(requests), batch_size):
        part = requests[at : at + batch_size]
        first, batch = part[0], processor([request.conversation for request in part]).to(device)
        own = limits(first.max_new_tokens, first.stop)
        replies += generate(module, batch, processor.tokenizer, own, first.sampling, first.num_beams)
    return replies


def as_list(value: Any) -> list[Any]:
    """One value or a list or tuple of them → a list."""
    return list(value) if isinstance(value, (list, tuple)) else [value]
