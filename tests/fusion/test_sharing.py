"""Reading a shared beginning once gives the logits and the replies of reading it for every row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.gallery import rgb

import chiasm
from chiasm.fusion.sharing import shared_beginning

QUESTIONS = ("what is it?", "is there a dog in the picture?", "how many?", "where is the cat in this image?", "a?")


def asked(model: Any, pictures: list[int]) -> list[Any]:
    return [
        [
            {
                "role": "user",
                "content": [{"type": "image", "image": rgb(60 + 7 * which, 50)}, {"type": "text", "text": text}],
            }
        ]
        for which, text in zip(pictures, QUESTIONS, strict=False)
    ]


@pytest.mark.parametrize("family", ["llava", "nano"])
def test_equal_to_reading_every_row(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = chiasm.new(family, tiny=True)
    conversations = asked(model, [0, 1, 0, 0, 1])
    batch = model.processor(conversations)
    cut = shared_beginning(batch)
    assert cut is not None and cut.owner.tolist() == [0, 1, 0, 0, 1] and len(cut.trunk.plans) == 2
    with torch.inference_mode():
        logits, state = model.module.prefill(batch, batch.input_ids.shape[1] + 4)
        token = torch.tensor([3, 5, 7, 9, 11])
        after = model.module.decode(token, state)
    replies = model.generate(conversations, max_new_tokens=6)
    monkeypatch.setattr("chiasm.fusion.splice.shared_beginning", lambda batch: None)
    with torch.inference_mode():
        wanted, plain = model.module.prefill(batch, batch.input_ids.shape[1] + 4)
        torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(after, model.module.decode(token, plain), atol=1e-5, rtol=1e-5)
    assert [r.token_ids for r in replies] == [r.token_ids for r in model.generate(conversations, max_new_tokens=6)]


def test_where_nothing_is_shared() -> None:
    model = chiasm.new("llava", tiny=True)
    assert shared_beginning(model.processor(asked(model, [0, 1, 2]))) is None, "three pictures"
    assert shared_beginning(model.processor(asked(model, [0]))) is None, "one row"
    mixed = [*asked(model, [0]), [{"role": "user", "content": "no picture"}]]
    assert shared_beginning(model.processor(mixed)) is None
    first, second = asked(model, [0, 0])
    second[0]["content"].reverse()  # the words come before the picture
    assert shared_beginning(model.processor([first, second])) is None
