"""What the engine's tests ask of which models, and what each reply is by itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from tests.gallery import rgb

import chiasm
from chiasm.core.messages import Conversation, parse_conversation
from chiasm.generation.requests import Request
from chiasm.generation.sampling import Sampling
from chiasm.models.model import Model

# plain, three positions a token, routed weights, latent attention with experts, ALiBi, a picture in two sizes
SLOTTED = ("llava", "qwen2_vl", "cogvlm", "xcomposer", "kimi_vl", "llava_next", "instructblip")
ELSEWHERE = ("flamingo", "idefics", "blip", "coca")


@cache
def tiny(family: str) -> Model:
    torch.manual_seed(0)
    return chiasm.new(family, tiny=True)


def turn(text: str, *pictures: int) -> dict[str, Any]:
    content: list[Any] = [{"type": "image", "image": rgb(40 + 9 * each, 50)} for each in pictures]
    return {"role": "user", "content": [*content, {"type": "text", "text": text}]}


def asked(text: str, *pictures: int) -> Conversation:
    return parse_conversation([turn(text, *pictures)])


def requests(model: Model) -> list[Request]:
    """Eight that differ in everything."""
    one = model.family.name in ELSEWHERE
    pictures: list[tuple[int, ...]] = [(0,), (1,), (0,), (2,), (0,), (1,), (3,), (0,)]
    if not one and model.family.name == "llava":
        pictures[1], pictures[3], pictures[5] = (1, 2), (), (0, 0, 1)
    made = []
    for at, shown in enumerate(pictures):
        sampling = Sampling(temperature=0.9, top_p=0.8, seed=at) if at % 3 == 1 else Sampling()
        text = "what is it" + " or not" * (at % 4)
        made.append(Request(conversation=asked(text, *shown), sampling=sampling, max_new_tokens=3 + 2 * at))
    return made


def solo(model: Model, wanted: Sequence[Request]) -> list[tuple[int, ...]]:
    replies = []
    for request in wanted:
        scheduler = model.scheduler(1)
        ticket = scheduler.add(request)
        scheduler.run()
        replies.append(tuple(ticket.reply.token_ids))
    return replies
