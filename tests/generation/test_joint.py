"""Passes of several parts of a prompt, and of a part beside the running replies' next tokens: as each apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.generation.asking import SLOTTED, asked, requests, solo, tiny

from chiasm.generation.parts import passes
from chiasm.generation.requests import Request

JOINING = ("llava", "qwen2_vl", "llava_next", "instructblip")  # the others' layers or routes work on whole rows


@pytest.mark.parametrize("family", SLOTTED)
def test_a_part_of_a_prompt_beside_replies_is_both_apart(family: str) -> None:
    model = tiny(family)
    module: Any = model.module
    first, second, third = (model.processor([request.conversation]) for request in requests(model)[:3])
    outcomes = []
    with torch.inference_mode():
        for together in (False, True):
            slots = module.new_slots()
            for batch in (first, second):
                prompt = module.open_prompt(batch, module.pictures(batch))
                module.read_prompts([prompt], [prompt.length])
                slots.admit(prompt)
            prompt = module.open_prompt(third, module.pictures(third))
            assert module.joins(prompt) == (family in JOINING)
            if not module.joins(prompt):
                return
            found = []
            for count, tokens in ((4, [5, 6]), (prompt.length - 4, [7, 8])):
                ids = torch.tensor(tokens)
                if together:
                    found += module.write_and_read(ids, slots, prompt, count)
                else:
                    found += [module.write(ids, slots, 0), *module.read_prompts([prompt], [count])]
            slots.admit(prompt)
            outcomes.append([*found, module.write(torch.tensor([1, 2, 3]), slots, 0)])
    apart, joined = outcomes
    assert apart[1] is joined[1] is None  # half of the prompt
    for one, other in zip(apart, joined, strict=True):
        if one is not None:
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)


def test_passes_hold_whole_parts() -> None:
    assert passes(0, [57, 106, 155, 175], 128) == [[57, 106], [155, 175]]
    assert passes(0, [57, 106, 155, 175], 128, 155) == [[57, 106], [155], [175]]
    assert passes(57, [106, 155, 175], 128) == [[106, 155, 175]]
    assert passes(0, [300, 310], 128) == [[300], [310]]
    assert passes(0, [64, 128], 0) == [[64], [128]] and passes(5, [], 9) == []


@pytest.mark.parametrize("failing", [False, True])
def test_prompts_are_read_beside_the_replies(failing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llava")
    module: Any = model.module
    wanted, original, rows = requests(model), module.write_and_read, []

    def joined(ids: torch.Tensor, *others: Any) -> Any:
        rows.append(len(ids))
        if failing:
            raise RuntimeError("one of them is at fault")
        return original(ids, *others)

    monkeypatch.setattr(module, "write_and_read", joined)
    scheduler = model.scheduler(4)
    tickets = [scheduler.add(request) for request in wanted]
    scheduler.run()
    assert max(rows) > 1
    assert [tuple(ticket.reply.token_ids) for ticket in tickets] == solo(model, wanted)
    rows.clear()
    exact = model.scheduler(4, deterministic=True)
    for request in wanted:
        exact.add(request)
    exact.run()
    assert not rows  # a reply's bits would depend on who is read beside it


def test_a_joint_pass_that_fails_at_its_end_is_done_again_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llava")
    module: Any = model.module
    wanted, joined, logits, failed = requests(model), module.write_and_read, module.language.logits, []
    expected = solo(model, wanted)

    def late(*given: Any) -> Any:
        def fails(hidden: torch.Tensor) -> torch.Tensor:
            failed.append(len(hidden))
            raise RuntimeError("no memory is left")

        module.language.logits = fails
        try:
            return joined(*given)
        finally:
            module.language.logits = logits

    monkeypatch.setattr(module.language, "logits", logits)
    monkeypatch.setattr(module, "write_and_read", late)
    scheduler = model.scheduler(4)
    tickets = [scheduler.add(request) for request in wanted]
    scheduler.run()
    assert failed and [tuple(ticket.reply.token_ids) for ticket in tickets] == expected


def test_a_short_prompt_beside_replies_does_not_wait_for_a_long_one() -> None:
    scheduler = tiny("llava").scheduler(4)
    assert scheduler.slotted is not None
    running = scheduler.add(Request(conversation=asked("go on"), max_new_tokens=200))
    while not scheduler.slotted.tickets:
        scheduler.step()
    long = scheduler.add(Request(conversation=asked("word " * 150), max_new_tokens=1))
    scheduler.step()
    short = scheduler.add(Request(conversation=asked("what?"), max_new_tokens=1))
    while not short.over:
        scheduler.step()
    assert not running.over and not long.over
