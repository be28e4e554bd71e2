"""The batching engine: replies don't depend on company, whoever joins, leaves, fails or is cancelled, and whenever."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.generation.asking import ELSEWHERE, SLOTTED, asked, requests, solo, tiny, turn

import chiasm
from chiasm.core.messages import parse_conversation
from chiasm.core.replies import Reply
from chiasm.generation.decoding import generate
from chiasm.generation.parts import part_ends, part_keys, picture_keys
from chiasm.generation.requests import Request, Ticket
from chiasm.generation.sampling import Sampling
from chiasm.generation.scheduler import Scheduler
from chiasm.generation.slotted import Keeping
from chiasm.models import vilt
from chiasm.models.model import Model
from chiasm.nn.rotary_scaling import DynamicScaling, LongScaling
from chiasm.weights.load import initialise


def answering() -> Model:
    """One that chooses among answers."""
    torch.manual_seed(0)
    config, processor = vilt.tiny(vilt.Answers(labels=("yes", "no", "two")))
    return Model(initialise(config), processor, vilt.FAMILY, config)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("family", [*SLOTTED, *ELSEWHERE])
def test_company_changes_no_reply(family: str, together: bool) -> None:
    model = tiny(family)
    wanted = requests(model)
    scheduler = model.scheduler(4, together=together)
    assert (scheduler.slotted is not None) == (family in SLOTTED)
    tickets = [scheduler.add(request) for request in wanted]
    scheduler.run()
    assert [tuple(ticket.reply.token_ids) for ticket in tickets] == solo(model, wanted)
    for ticket in tickets:
        assert ticket.reply.usage.completion_tokens == len(ticket.reply.logprobs) == len(ticket.reply.token_ids)
    if scheduler.slotted is not None:
        assert scheduler.slotted.slots.nbytes == 0


def test_as_the_whole_prompt_read_at_once() -> None:
    """The engine's chunks and rows against the module's own prefill and decode."""
    model = tiny("llava")
    for request in requests(model):
        if request.sampling.temperature == 0:
            batch = model.processor([request.conversation])
            limits = model.limits(request.max_new_tokens, None)
            (plain,) = generate(model.module, batch, model.processor.tokenizer, limits, Sampling())  # type: ignore[arg-type]
            scheduler = Scheduler(model.module, model.processor, model.limits, chunk=5)  # type: ignore[arg-type]
            ticket = scheduler.add(request)
            scheduler.run()
            assert plain.token_ids == ticket.reply.token_ids
            assert plain.logprobs == pytest.approx(ticket.reply.logprobs, abs=1e-5)
            assert plain.usage == ticket.reply.usage


@pytest.mark.parametrize(
    "scaling",
    [
        DynamicScaling(factor=2.0, original_context=50),
        LongScaling(short_factors=(1.0,) * 4, long_factors=(9.0,) * 4, original_context=50, attention_factor=1.0),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_positions_that_depend_on_the_prompts_length(
    scaling: Any, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts, rows and kept beginnings turn as the whole prompt does, and go on so past the original context."""
    model = chiasm.new("llava", tiny=True)
    language: Any = model.module.language
    rotary = replace(language.config.rotary, scaling=scaling)
    if isinstance(scaling, LongScaling):
        half = language.config.rotary_width // 2
        rotary = replace(rotary, scaling=replace(scaling, short_factors=(1.0,) * half, long_factors=(9.0,) * half))
    monkeypatch.setattr(language, "config", replace(language.config, rotary=rotary))
    wanted = [Request(conversation=asked("why " * at, 0), max_new_tokens=24) for at in (1, 12, 30, 2)]
    how: dict[str, Any] = {"chunk": 7, "together": together}
    scheduler = Scheduler(model.module, model.processor, model.limits, **how)  # type: ignore[arg-type]
    tickets = [scheduler.add(request) for request in wanted]
    scheduler.run()
    lengths = [ticket.reply.usage.prompt_tokens for ticket in tickets]
    assert min(lengths) < 50 < max(lengths) and min(lengths) + 24 > 50
    for request, ticket in zip(wanted, tickets, strict=True):
        batch, limits = model.processor([request.conversation]), model.limits(24, None)
        (whole,) = generate(model.module, batch, model.processor.tokenizer, limits, Sampling())  # type: ignore[arg-type]
        assert whole.logprobs == pytest.approx(ticket.reply.logprobs, abs=1e-4)


@cache
def _expected() -> tuple[tuple[int, ...], ...]:
    return tuple(solo(tiny("llava"), requests(tiny("llava"))))


@settings(max_examples=12, deadline=None)
@given(
    arrivals=st.permutations(range(8)),
    gaps=st.lists(st.integers(0, 4), min_size=8, max_size=8),
    leavers=st.dictionaries(st.integers(0, 7), st.integers(0, 6), max_size=3),
    rows=st.integers(1, 5),
    chunk=st.sampled_from([3, 16, 64]),
    together=st.booleans(),
)
def test_any_schedule(
    arrivals: list[int], gaps: list[int], leavers: dict[int, int], rows: int, chunk: int, together: bool
) -> None:
    model = tiny("llava")
    wanted, expected = requests(model), _expected()
    how: dict[str, Any] = {"rows": rows, "chunk": chunk, "together": together}
    scheduler = Scheduler(model.module, model.processor, model.limits, **how)  # type: ignore[arg-type]
    tickets: dict[int, Ticket] = {}
    left = dict(leavers)

    def step() -> None:
        scheduler.step()
        assert scheduler.active <= rows
        for at in [at for at in left if at in tickets]:
            left[at] -= 1
            if left[at] < 0:
                tickets[at].cancelled = True
                del left[at]

    for at, gap in zip(arrivals, gaps, strict=True):
        tickets[at] = scheduler.add(wanted[at])
        for _ in range(gap):
            step()
    while not scheduler.idle:
        step()
    for at, ticket in tickets.items():
        if not ticket.cancelled:
            assert tuple(ticket.reply.token_ids) == expected[at], at
    assert scheduler.slotted is not None and scheduler.slotted.slots.nbytes == 0


@pytest.mark.parametrize("family", ["llava", "blip"])
def test_one_poisoned_request_harms_none(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(family)
    good = [Request(conversation=asked(f"what is number {at}?", 0), max_new_tokens=5) for at in range(15)]
    poison = parse_conversation([{"role": "user", "content": [{"type": "image", "image": object()}, "what?"]}])
    scheduler = model.scheduler(16)
    tickets = [scheduler.add(request) for request in [*good[:7], Request(conversation=poison), *good[7:]]]
    scheduler.run()
    assert isinstance(tickets.pop(7).result, chiasm.PictureError)
    assert [tuple(ticket.reply.token_ids) for ticket in tickets] == solo(model, good)


def test_prompts_are_read_side_by_side_and_one_that_fails_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llava")
    wanted = requests(model)
    expected, plain, sizes = solo(model, wanted), model.module.read_prompts, []  # type: ignore[operator]
    scheduler = model.scheduler(8, together=True)
    tickets = [scheduler.add(request) for request in wanted]
    bad = len(model.processor([wanted[3].conversation]).input_ids[0])  # type: ignore[index]

    def failing(prompts: Any, counts: Any) -> Any:
        sizes.append(len(prompts))
        if any(prompt.length == bad for prompt in prompts):
            raise RuntimeError("out of memory")
        return plain(prompts, counts)

    monkeypatch.setattr(model.module, "read_prompts", failing)
    scheduler.run()
    assert isinstance(tickets.pop(3).result, RuntimeError) and max(sizes) > 2
    assert [tuple(ticket.reply.token_ids) for ticket in tickets] == [e for at, e in enumerate(expected) if at != 3]


@pytest.mark.parametrize("family", ["llava", "blip", "vilt"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_come_as_they_are_done_and_one_that_fails_fails_alone(family: str, batch_size: int) -> None:
    model = answering() if family == "vilt" else tiny(family)
    talks = [asked(f"what is number {at}?", at % 2) for at in range(7)]
    expected = [reply.text for reply in model.generate(talks, max_new_tokens=4)]
    talks.insert(3, parse_conversation([{"role": "user", "content": [{"type": "image", "image": object()}, "what?"]}]))
    found = dict(model.answers(talks, 4, batch_size))
    assert sorted(found) == list(range(8)) and isinstance(found.pop(3), chiasm.PictureError)
    assert [found[at].text for at in sorted(found)] == expected  # type: ignore[union-attr]


def test_rows_are_filled_again_when_half_of_them_are_free() -> None:
    model = tiny("llava")
    scheduler = model.scheduler(4, together=True)
    tickets = [scheduler.add(Request(conversation=asked("what?", 0), max_new_tokens=3 + at)) for at in range(9)]
    crowds = []
    while not scheduler.idle:
        before = scheduler.active
        scheduler.step()
        crowds.append((before, scheduler.active))
    assert all(ticket.over for ticket in tickets)
    assert all(after <= before for before, after in crowds if before > 2) and max(after for _, after in crowds) == 4


def test_a_row_that_fails_in_the_middle_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llava")
    wanted = requests(model)[:4]
    expected, plain = solo(model, wanted), model.module.write  # type: ignore[operator]
    scheduler = model.scheduler(4)
    tickets = [scheduler.add(request) for request in wanted]
    assert scheduler.slotted is not None

    def failing(ids: torch.Tensor, slots: Any, start: int, **how: Any) -> torch.Tensor:
        assert scheduler.slotted is not None
        if tickets[2] in scheduler.slotted.tickets[start : start + len(ids)]:
            raise RuntimeError("out of memory")
        return plain(ids, slots, start, **how)

    monkeypatch.setattr(model.module, "write", failing)
    scheduler.run()
    assert isinstance(tickets.pop(2).result, RuntimeError)
    assert [tuple(ticket.reply.token_ids) for ticket in tickets] == [e for at, e in enumerate(expected) if at != 2]


def test_beams_are_one_kind_of_request() -> None:
    model = tiny("llava")
    wanted = [Request(conversation=asked("what?", 0), max_new_tokens=6, num_beams=3), *requests(model)[:3]]
    scheduler = model.scheduler(4)
    tickets = [scheduler.add(request) for request in wanted]
    scheduler.run()
    (beams,) = model.generate([wanted[0].conversation], max_new_tokens=6, num_beams=3)
    assert tickets[0].reply == beams
    assert [tuple(ticket.reply.token_ids) for ticket in tickets[1:]] == solo(model, wanted[1:])


def test_a_long_prompt_doesnt_hold_running_replies_up() -> None:
    model = tiny("llava")
    scheduler = Scheduler(model.module, model.processor, model.limits, chunk=4)  # type: ignore[arg-type]
    running = scheduler.add(Request(conversation=asked("what?"), max_new_tokens=200))
    while not running.running.drawn:
        scheduler.step()
    scheduler.add(Request(conversation=asked("long " * 120), max_new_tokens=1))
    assert scheduler.slotted is not None
    before, steps = len(running.running.drawn), 0
    while (scheduler.slotted.prompts or steps == 0) and not running.over:
        scheduler._seconds = 0.0  # one unit a step, however slow the machine
        scheduler.step()
        steps += 1
    assert len(running.running.drawn) - before == steps > 30


def test_questions_on_one_picture_read_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llava")
    encoded: list[int] = []
    plain = model.module.pictures  # type: ignore[operator]
    monkeypatch.setattr(model.module, "pictures", lambda batch: (encoded.append(len(batch.plans)), plain(batch))[1])
    wanted = [Request(conversation=asked(f"question {at}?", 0), max_new_tokens=2) for at in range(20)]
    expected = solo(model, wanted)
    encoded.clear()
    scheduler = model.scheduler(8)
    first = [scheduler.add(request) for request in wanted[:10]]
    scheduler.run()
    later = [scheduler.add(request) for request in wanted[10:]]
    scheduler.run()
    assert encoded == [1]
    run = scheduler.slotted
    assert run is not None and run.beginnings.counts.items == 1 and run.beginnings.counts.hits == 19
    lengths = [ticket.reply.usage.prompt_tokens for ticket in [*first, *later]]
    assert run.prompt_tokens_read < sum(lengths) - 19 * (run.beginnings.counts.nbytes > 0)
    assert [tuple(ticket.reply.token_ids) for ticket in [*first, *later]] == expected


@pytest.mark.parametrize("room", [512 * 2**20, 40_000])
def test_a_text_that_many_prompts_begin_with_is_read_once(room: int) -> None:
    model = tiny("llava")
    system = {"role": "system", "content": "be brief and kind " * 9}
    texts = [*(f"question {at}?" for at in range(6)), "long " * 40]
    talks = [[system, turn(text, *shown)] for text in texts for shown in ((), (1,))]
    wanted = [Request(conversation=parse_conversation(talk), max_new_tokens=2) for talk in talks]
    scheduler = Scheduler(
        model.module, model.processor, model.limits, chunk=16, keeping=Keeping(beginning_bytes=room)
    )  # fmt: skip
    tickets = [scheduler.add(request) for request in wanted]
    scheduler.run()
    assert [tuple(ticket.reply.token_ids) for ticket in tickets] == solo(model, wanted)
    run = scheduler.slotted
    assert run is not None and run.beginnings.counts.nbytes <= room
    lengths = [ticket.reply.usage.prompt_tokens for ticket in tickets]
    shared = len(model.processor.tokenizer.encode("be brief and kind " * 9)) // 16 * 16
    if room > 40_000:
        assert shared >= 64 and run.prompt_tokens_read <= sum(lengths) - (len(wanted) - 1) * shared
    read = run.prompt_tokens_read
    (again,) = [scheduler.add(wanted[-2])]
    scheduler.run()
    assert again.reply.token_ids == tickets[-2].reply.token_ids
    assert run.prompt_tokens_read - read <= (16 if room > 40_000 else lengths[-2])


def test_a_part_is_known_by_all_that_stands_before_it() -> None:
    model = tiny("llava")
    module: Any = model.module

    def keys(text: str, *pictures: int) -> list[bytes]:
        batch = model.processor([asked(text, *pictures)])
        ends = part_ends(batch.spans, batch.input_ids.shape[1], 8)
        return list(part_keys(module, batch, picture_keys(module, batch), ends).values())

    plain, other = keys("why " * 20, 0), keys("why " * 20, 1)
    assert len(set(plain)) == len(plain) > 3
    assert plain[0] != other[0] or plain[1] != other[1]
    same = len([one for one, two in zip(plain, keys("why " * 10 + "not", 0), strict=False) if one == two])
    assert 1 < same < len(plain)
    assert not set(plain[2:]) & set(other[2:])


def test_the_same_pixels_under_another_question_or_plan_are_other_pictures() -> None:
    model = tiny("llava")
    one, two = (model.processor([asked(text, 0)]) for text in ("what?", "where?"))
    module: Any = model.module
    assert picture_keys(module, one) == picture_keys(module, two)
    other = model.processor([asked("what?", 1)])
    assert picture_keys(module, other) != picture_keys(module, one)
    told = tiny("instructblip")
    asking = [told.processor([asked(text, 0)]) for text in ("what?", "where?")]
    first, second = (picture_keys(told.module, batch) for batch in asking)  # type: ignore[arg-type]
    assert first != second


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "kimi_vl", "blip"])
def test_deterministic_replies_are_bit_equal(family: str) -> None:
    model = tiny(family)
    wanted = requests(model)
    seen = []
    for order in (range(8), range(7, -1, -1), (3, 1, 4, 0, 5, 2, 6, 7)):
        scheduler = model.scheduler(5, deterministic=True)
        tickets = {}
        for at in order:
            tickets[at] = scheduler.add(wanted[at])
            scheduler.step()
        scheduler.run()
        replies: list[Reply] = [tickets[at].reply for at in range(8)]
        seen.append([(reply.token_ids, [value.hex() for value in reply.logprobs]) for reply in replies])
    assert seen[0] == seen[1] == seen[2]
