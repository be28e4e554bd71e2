"""Families that write places: how a phrase is asked, what a reply becomes, what a family without boxes says."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import chiasm
from chiasm.core.errors import CapabilityError, PromptError
from chiasm.core.replies import Reply, Usage

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8))
CASES = {
    # the prompt that published code gives; a reply; the box in original pixels
    "kosmos": (
        "<grounding><phrase> the red car</phrase>",
        "<object><patch_index_0000><patch_index_1023></object>",
        # a square crop of the middle: from the first patch's middle to the last one's
        (20 + 120 / 64, 120 / 64, 140 - 120 / 64, 120 - 120 / 64),
    ),
    "qwen_vl": ("<ref>the red car</ref><box>", "(250,500),(750,1000)</box>", (40, 60, 120, 120)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_phrase_is_asked_with_its_control_tokens_and_read_back(name, monkeypatch) -> None:
    model = chiasm.new(name)
    question, reply, box = CASES[name]
    tokenizer, asked = model.processor.tokenizer, []

    def answer(self, conversations, **options):
        asked.append(self.processor.prompt(conversations))
        ids = tuple(tokenizer.backend.encode(reply, add_special_tokens=False).ids)
        return [Reply(tokenizer.decode(ids), ids, (-0.5,) * len(ids), "stop", Usage(1, len(ids)))]

    monkeypatch.setattr(type(model), "generate", answer)
    found = model.ground(PICTURE, "the red car")
    assert asked[0].text.endswith(question)
    controls = [tokenizer.id_to_token(index) for index in asked[0].ids if index in tokenizer.control_ids]
    assert [token for token in controls if token in question] == [
        token for token in ("<grounding>", "<phrase>", "</phrase>", "<ref>", "</ref>", "<box>") if token in question
    ]
    (region,) = found.regions
    assert region.phrase == "the red car" and region.score == pytest.approx(np.exp(-0.5)) and not found.unread
    assert region.box == pytest.approx(box, abs=1)  # the small picture's sides are rounded to pixels
    again = model.ground(PICTURE, "<box>")  # typed by somebody: no control token
    assert again.size == (160, 120) and asked[1].ids.count(tokenizer.token_to_id("<box>") or -1) <= 1


@pytest.mark.parametrize("name", CASES)
def test_what_an_untrained_model_writes_is_reported(name) -> None:
    found = chiasm.new(name).ground(PICTURE, "the red car")
    assert found.size == (160, 120) and isinstance(found.text, str)
    with pytest.raises(PromptError, match="phrase"):
        chiasm.new(name).ground(PICTURE, "  ")


def test_a_family_without_boxes_names_those_that_have_them() -> None:
    with pytest.raises(CapabilityError, match="kosmos.*qwen_vl"):
        chiasm.new("blip2").ground(PICTURE, "the red car")
