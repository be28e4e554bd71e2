"""Conversations with examples, answers that are ranked: pictures are encoded once, and what doesn't fit is told."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

import chiasm
from chiasm.core.errors import PromptError

SPLICED = ["frozen", "blip2", "instructblip", "minigpt4", "xgen_mm", "kosmos", "palme", "qwen_vl"]
GATED = ["flamingo", "idefics"]


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def shots(count: int, question: int = 99) -> list[dict]:
    """`count` answered examples with a picture each, then a question."""
    turns = []
    for seed in [*range(count), question]:
        parts = [{"type": "image", "image": picture(seed)}, {"type": "text", "text": "what is it?"}]
        turns += [{"role": "user", "content": parts}, {"role": "assistant", "content": "a red cat"}]
    return turns[:-1]


def counted(model) -> list[int]:
    """Crops that the tower sees, call by call."""
    seen: list[int] = []
    own = model.module.visual_features

    def see(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return own(pixels)

    model.module.visual_features = see
    return seen


@pytest.mark.parametrize("name", [*SPLICED, *GATED])
def test_ranked_answers_share_one_look_at_the_pictures(name) -> None:
    model = chiasm.new(name)
    answers = ["a red cat", "yes", "two dogs", "no"]
    talk = shots(1)
    alone = [model.score(talk, answer)[0] for answer in answers]
    seen = counted(model)
    together = model.score(talk, answers)
    crops = sum(len(plan.crops) for plan in model.processor([talk]).plans)
    assert sum(seen) == crops and len(seen) == 1
    for one, other in zip(together, alone, strict=True):
        assert one.token_ids == other.token_ids
        assert np.allclose(one.logprobs, other.logprobs, atol=1e-5)


@pytest.mark.parametrize("name", ["blip2", "flamingo"])
def test_examples_that_come_again_are_encoded_once(name) -> None:
    model = chiasm.new(name)
    talks = [shots(3, question=50), shots(3, question=51), shots(3, question=52)]
    plain = [reply.token_ids for reply in model.generate(talks, max_new_tokens=3)]
    seen = counted(model)
    counts = model.remember_pictures(8)
    replies = [*model.generate(talks[:2], max_new_tokens=3), *model.generate(talks[2], max_new_tokens=3, num_beams=1)]
    assert [reply.token_ids for reply in replies] == plain
    assert sum(seen) == 3 + 3 == counts.misses, "three examples, three questions"
    model.score(talks[0], ["yes", "no"])
    assert sum(seen) == 6 and counts.hits > 0 and counts.nbytes < 8 * 2**20
    assert model.remember_pictures(0) is None
    model.generate(talks[0], max_new_tokens=1)
    assert sum(seen) == 10


@pytest.mark.parametrize("name", ["blip2", "flamingo", "kosmos"])
def test_more_examples_than_the_context_holds_says_how_many_fit(name) -> None:
    model = chiasm.new(name)
    with pytest.raises(PromptError, match="examples before the question fit") as caught:
        model.processor([shots(60)])
    fit = int(re.search(r"(\d+) of the 60 examples", caught.value.what)[1])
    assert 0 < fit < 60 and caught.value.code == "context_exceeded"
    model.processor([shots(60)[2 * (60 - fit) :]])
    with pytest.raises(PromptError, match=f"{fit} of the {fit + 1} examples"):
        model.processor([shots(60)[2 * (60 - fit - 1) :]])


@pytest.mark.parametrize("name", [*SPLICED, "idefics"])
def test_a_video_is_refused_with_its_place(name) -> None:
    film = {"type": "video", "video": [picture(1), picture(2)], "fps": 1.0}
    talk = [{"role": "user", "content": [{"type": "text", "text": "what?"}, film]}]
    with pytest.raises(PromptError, match="message 0, part 1 is a video; this model takes 0 videos"):
        chiasm.new(name).generate([talk])
