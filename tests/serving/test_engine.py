"""The engine: batches don't change replies' neighbours, a poisoned request fails alone, closing refuses the rest."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.serving.conftest import encoded

import chiasm
from chiasm.core.messages import Conversation, parse_conversation
from chiasm.core.replies import Reply
from chiasm.models.model import Model
from chiasm.serving.engine import BatchingEngine, EngineRefusal, Job


@pytest.fixture(scope="module")
def model(tiny_folder: Callable[[str], Path]) -> Model:
    return chiasm.load(str(tiny_folder("llava")))


def asked(text: str) -> Conversation:
    return parse_conversation([{"role": "user", "content": [{"type": "image", "image": encoded()}, text]}])


def collect(engine: BatchingEngine, conversations: list[Conversation]) -> list[Any]:
    """Submit all at once, while the engine is kept busy, so that they meet in one batch."""
    gate, answers = threading.Event(), queue.Queue[tuple[int, Any]]()
    engine.submit(Job(call=gate.wait, on_done=lambda value: None))
    jobs = [
        Job(conversation=item, max_new_tokens=6, on_done=lambda value, at=at: answers.put((at, value)))
        for at, item in enumerate(conversations)
    ]
    engine.submit(*jobs)
    gate.set()
    found = dict(answers.get(timeout=60) for _ in jobs)
    return [found[at] for at in range(len(jobs))]


def test_a_poisoned_request_fails_alone(model: Model) -> None:
    engine = BatchingEngine(model, max_queue=64, max_batch=16)
    good = [asked(f"what is number {at}?") for at in range(15)]
    solo = [model.generate([item], max_new_tokens=6)[0] for item in good]
    poisoned = parse_conversation([{"role": "user", "content": [{"type": "image", "image": object()}, "what?"]}])
    answers = collect(engine, [*good[:7], poisoned, *good[7:]])
    assert isinstance(answers.pop(7), chiasm.PictureError)
    assert [answer.token_ids for answer in answers] == [reply.token_ids for reply in solo]
    engine.close()


def test_deterministic_replies_are_bit_equal(model: Model) -> None:
    engine = BatchingEngine(model, max_batch=1)
    items = [asked(f"tell me about {at} things" + " more" * at) for at in range(4)]
    first = collect(engine, items)
    again = collect(engine, items[::-1])[::-1]
    assert all(isinstance(reply, Reply) for reply in first)
    assert [(r.token_ids, r.logprobs) for r in first] == [(r.token_ids, r.logprobs) for r in again]
    engine.close()


@pytest.mark.parametrize("family", ["llava", "blip"])
def test_a_picture_that_takes_long_to_prepare_holds_nobody_up(
    family: str, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = chiasm.load(str(tiny_folder(family)))
    gate, plain = threading.Event(), model.processor

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(plain, name)

        def __call__(self, conversations: list[Conversation]) -> Any:
            if "slow" in str(conversations):
                assert gate.wait(60)
            return plain(conversations)

    monkeypatch.setattr(model, "processor", Slow())
    engine, answers = BatchingEngine(model, max_batch=4), queue.Queue[tuple[str, Any]]()
    for text in ("slow", "quick"):
        job = Job(
            conversation=asked(text), max_new_tokens=4, on_done=lambda value, text=text: answers.put((text, value))
        )
        engine.submit(job)
        while engine.health().waiting:
            pass
    assert answers.get(timeout=60)[0] == "quick" and engine.health().active == 1
    gate.set()
    text, reply = answers.get(timeout=60)
    assert text == "slow" and reply.text == model.generate([asked("slow")], max_new_tokens=4)[0].text
    engine.close()


def test_the_queue_is_bounded_and_cancelled_jobs_leave_it(model: Model) -> None:
    engine, gate = BatchingEngine(model, max_queue=2), threading.Event()
    started = threading.Event()
    engine.submit(Job(call=lambda: (started.set(), gate.wait()), on_done=lambda value: None))
    assert started.wait(20)
    waiting = [Job(call=lambda: None, on_done=lambda value: None) for _ in range(2)]
    engine.submit(*waiting)
    with pytest.raises(EngineRefusal) as refusal:
        engine.submit(Job(call=lambda: None, on_done=lambda value: None))
    assert refusal.value.code == "engine_busy" and refusal.value.retry_after >= 1
    waiting[0].cancelled.set()
    last: queue.Queue[Any] = queue.Queue()
    engine.submit(Job(call=lambda: "done", on_done=last.put))
    gate.set()
    assert last.get(timeout=20) == "done"
    engine.close()
    with pytest.raises(EngineRefusal, match="stopping"):
        engine.submit(Job(call=lambda: None, on_done=lambda value: None))


def test_an_engine_that_stalls_is_not_healthy(model: Model) -> None:
    engine, gate = BatchingEngine(model, stall_seconds=0.05), threading.Event()
    assert engine.health().alive
    engine.submit(Job(call=gate.wait, on_done=lambda value: None))
    gate.wait(0.3)
    assert not engine.health().alive
    gate.set()
    engine.close()
    assert not engine.health().alive


@pytest.mark.parametrize(("temperature", "top_p"), [(5e-324, 1.0), (1.0, 5e-324), (1e-30, 1e-30)])
def test_numbers_that_vanish_in_float32_sample_the_best_token(model: Model, temperature: float, top_p: float) -> None:
    item = asked("what is this?")
    (greedy,) = model.generate([item], max_new_tokens=4)
    (drawn,) = model.generate([item], max_new_tokens=4, temperature=temperature, top_p=top_p, seed=1)
    assert drawn.token_ids == greedy.token_ids
