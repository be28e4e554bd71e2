"""Constrained replies: every kind of tokenizer, sampling, refusals; what is hostile is refused at once."""

from __future__ import annotations

import json
import re
import time
from functools import cache
from typing import Any

import pytest
import torch
from tests.gallery import rgb

import chiasm
from chiasm.core.constraints import parse_constraint
from chiasm.generation.constraints import Grammars
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.tokenizer import Tokenizer

SCHEMA = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 0, "maximum": 99}, "kind": {"enum": ["a b", "c"]}},
    "required": ["count", "kind"],
    "additionalProperties": False,
}


@cache
def tokenizer(kind: str) -> Tokenizer:
    return tiny_tokenizer(kind)


def fits_schema(text: str) -> bool:
    value = json.loads(text)
    return list(value) == ["count", "kind"] and 0 <= value["count"] <= 99 and value["kind"] in ("a b", "c")


@pytest.mark.parametrize("kind", ["chatml", "llama", "clip", "bert"])
@pytest.mark.parametrize(
    ("constraint", "fits"),
    [
        (["yes", "no", "a red cat", 'a "b"'], lambda text: text in ("yes", "no", "a red cat", 'a "b"')),
        (r"[0-9]{2}(/[a-c]){1,3}", lambda text: re.fullmatch(r"[0-9]{2}(/[a-c]){1,3}", text)),
        (SCHEMA, fits_schema),
    ],
)
def test_whatever_the_model_wants_the_text_fits(kind: str, constraint: Any, fits: Any) -> None:
    words = tokenizer(kind)
    grammars = Grammars(words, words.eos_ids or (words.pad_id,))
    source = torch.Generator().manual_seed(0)
    found = set()
    for _ in range(12):
        matcher, ids, spelled = grammars.matcher(parse_constraint(constraint)), [], words.stream()
        text = ""
        while not matcher.over and len(ids) < 80:
            ids.append(int(matcher.masked(torch.randn(1, len(words) + 3, generator=source)).argmax()))
            matcher.take(ids[-1])
            text += spelled.push(ids[-1])
        text += spelled.finish()
        assert fits(text) and text == words.decode(ids), (text, ids)
        found.add(text)
    assert len(found) > 1


def asked() -> list[dict[str, Any]]:
    content = [{"type": "image", "image": rgb(60, 50)}, {"type": "text", "text": "what is it?"}]
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize("family", ["llava", "blip", "flamingo"])
def test_generate(family: str) -> None:
    torch.manual_seed(0)
    model = chiasm.new(family, tiny=True)
    for settings in ({}, {"temperature": 1.5, "seed": 3}):
        choice, number = (
            model.generate(asked(), constraint=form, max_new_tokens=20, **settings)[0]
            for form in (["yes", "no"], re.compile("[0-9]{3}"))
        )
        assert choice.text in ("yes", "no") and choice.finish_reason == "stop"
        assert re.fullmatch("[0-9]{3}", number.text) and len(number.logprobs) == len(number.token_ids)
    assert "".join(model.stream(asked(), constraint=["yes", "no"])) in ("yes", "no")
    with pytest.raises(chiasm.ChiasmError, match="beams_constrained"):
        model.generate(asked(), constraint=["yes"], num_beams=2)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


HOSTILE: list[tuple[Any, str]] = [
    (nested(3000), "constraint_too_large"),
    ({"enum": ["x" * 70_000]}, "constraint_too_large"),
    ({"minimum": 10**300}, "constraint_too_large"),
    ([f"text {at}" for at in range(3000)], "constraint_too_large"),
    ("a" * 5000, "constraint_too_large"),
    ({"allOf": [{"anyOf": [{"properties": {f"k{i}{j}": {}}} for j in range(4)]} for i in range(8)]}, "too_complex"),
    ({"$ref": "http://localhost/schema.json"}, "constraint_invalid"),
    ({"type": "nothing"}, "constraint_invalid"),
    ({"type": "array", "uniqueItems": True}, "constraint_invalid"),
    ({"x": object()}, "constraint_invalid"),
    ("(?=a)b", "constraint_invalid"),
    ("(a", "constraint_invalid"),
    ("(" * 2000 + "a" + ")" * 2000, "constraint_invalid"),
    ([], "constraint_invalid"),
    ({"regex": 3}, "constraint_invalid"),
    (3.5, "constraint_unknown"),
]


@pytest.mark.parametrize(("constraint", "code"), HOSTILE)
def test_refused_at_once(constraint: Any, code: str) -> None:
    words = tokenizer("chatml")
    words_ready = Grammars(words, words.eos_ids)
    words_ready.matcher(parse_constraint(["warm"]))  # the vocabulary is built once
    start = time.process_time()
    with pytest.raises(chiasm.ChiasmError) as failure:
        words_ready.matcher(parse_constraint(constraint))
    assert code in failure.value.code and len(failure.value.what) < 600
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "constraint",
    [
        {"type": "object", "properties": {f"p{i}": {"type": "string", "pattern": "(a|b)*d{1,50}"} for i in range(500)}},
        {"$ref": "#"}, "((a{0,200}){0,200}){0,200}", r"[\s\S]*a[\s\S]{200}b", "a{1000000}", "(x+x+)+y",
        {"type": "string", "pattern": "((a{0,99}){0,99}){0,99}", "minLength": 10**6},
        {"type": "array", "items": {"type": "integer"}, "minItems": 10**6},
    ],
)  # fmt: skip
def test_no_step_takes_long(constraint: Any) -> None:
    words = tokenizer("chatml")
    source = torch.Generator().manual_seed(0)
    try:
        matcher = Grammars(words, words.eos_ids).matcher(parse_constraint(constraint))
        for _ in range(30):
            start = time.process_time()
            matcher.take(int(matcher.masked(torch.randn(1, len(words), generator=source)).argmax()))
            assert time.process_time() - start < 2
            if matcher.over:
                break
    except chiasm.ChiasmError as refusal:
        assert refusal.code in ("constraint_too_complex", "constraint_invalid")


def test_a_reply_that_becomes_too_complex_fails_alone() -> None:
    from chiasm.core.messages import parse_conversation
    from chiasm.generation.requests import Request

    model = chiasm.new("llava", tiny=True)
    scheduler = model.scheduler(4)
    conversation = parse_conversation(asked())
    forms = [None, parse_constraint({"$ref": "#"}), parse_constraint(["yes", "no"])]
    tickets = [scheduler.add(Request(conversation=conversation, constraint=form, max_new_tokens=8)) for form in forms]
    scheduler.run()
    assert isinstance(tickets[1].result, chiasm.ChiasmError) and tickets[1].result.code == "constraint_too_complex"
    assert tickets[0].reply.token_ids == model.generate(asked(), max_new_tokens=8)[0].token_ids
    assert tickets[2].reply.text in ("yes", "no")
