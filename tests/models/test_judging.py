"""Matching, choosing and grounding through `Model`."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from tests.invariants.decoding import decoded_beside_whole

import chiasm
from chiasm.core.errors import PromptError
from chiasm.models.blip import tiny
from chiasm.models.judging import heat_picture

RED, BLUE = Image.new("RGB", (60, 40), "red"), Image.new("RGB", (30, 50), "blue")


@pytest.fixture(scope="module")
def model():
    made = chiasm.new("blip")
    generator = torch.Generator().manual_seed(0)
    for parameter in made.module.parameters():  # first weights are so small that every picture looks alike
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return made


def test_matching_does_not_depend_on_the_batch(model) -> None:
    texts = ["a red cat", "two dogs and a yellow ball", "a"]
    together = model.match([RED, BLUE, RED], texts)
    apart = torch.cat([model.match(image, text) for image, text in zip([RED, BLUE, RED], texts, strict=True)])
    assert (together - apart).abs().max() <= 1e-6
    assert torch.equal(model.match(RED, texts), model.match([RED] * 3, texts))
    assert ((together > 0) & (together < 1)).all()


def test_what_does_not_pair_up_is_refused(model) -> None:
    for images, texts, code in (([RED, BLUE], ["a", "b", "c"], "pair_count"), ([], ["a"], "nothing_to_match")):
        with pytest.raises(PromptError) as caught:
            model.match(images, texts)
        assert caught.value.code == code


def test_a_text_that_is_too_long_is_cut_only_when_asked(model) -> None:
    long = "a cat " * 60
    with pytest.raises(PromptError, match="120|122") as caught:
        model.match(RED, long)
    assert caught.value.code == "text_too_long"
    assert model.processor.pairs([RED], [long], truncate=True).input_ids.shape == (1, 64)


def test_ground_gives_places_in_original_pixels_and_a_heat_picture(model) -> None:
    found = model.ground(RED, "a red cat")
    (x0, y0, x1, y1), (x, y) = found.regions[0].box, found.regions[0].point
    assert 0 <= x0 <= x <= x1 <= 60 and 0 <= y0 <= y <= y1 <= 40
    assert found.heat.shape == (4, 4) and found.heat.max() == pytest.approx(1) and found.heat.min() >= 0
    assert found.regions[0].score == pytest.approx(model.match(RED, "a red cat").item(), abs=1e-6)
    assert heat_picture(found, RED).size == (60, 40)


def test_albefs_heat_comes_from_a_layer_whose_words_still_matter() -> None:
    made = chiasm.new("albef")
    generator = torch.Generator().manual_seed(0)
    for parameter in made.module.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    heat = made.ground(RED, "a red cat").heat
    assert heat.max() == pytest.approx(1)  # in the last layer only the class token's attention has a gradient


def test_a_conversation_is_one_question(model) -> None:
    image = {"type": "image", "image": RED}
    ask = {"role": "user", "content": [image, {"type": "text", "text": "a"}]}
    for talk, code in (
        ([ask, {"role": "assistant", "content": "b"}, ask], "turns_many"),
        ([{"role": "user", "content": "no picture"}], "image_count"),
        ([{"role": "user", "content": [image, image]}], "too_many_images"),
    ):
        with pytest.raises(PromptError) as caught:
            model.generate([talk])
        assert caught.value.code == code


def test_questions_of_several_lengths_are_learned_in_one_batch() -> None:
    from chiasm.objectives.captioning import token_loss
    from chiasm.weights.load import initialise

    config, processor = tiny(joint=False)
    module = initialise(config)
    rows = [("what is it?", "a cat"), ("how many birds are there in the picture?", "two birds near the boat")]
    talks = [
        [
            {"role": "user", "content": [{"type": "image", "image": RED}, {"type": "text", "text": question}]},
            {"role": "assistant", "content": answer},
        ]
        for question, answer in rows
    ]
    together = processor(talks, supervise=True)
    counts = [(labels != -100).sum() for labels in together.labels]
    apart = [processor([talk], supervise=True) for talk in talks]
    expected = sum(token_loss(module(one), one.labels) * count for one, count in zip(apart, counts, strict=True))
    assert abs(token_loss(module(together), together.labels) - expected / sum(counts)) <= 1e-5


def albef(head):
    from chiasm.core.registry import family
    from chiasm.models import albef as module_of
    from chiasm.models.model import Model
    from chiasm.weights.load import initialise

    config, processor = module_of.tiny(head)
    module = initialise(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return Model(module, processor, family("albef"), config)


def ask(images, words: str) -> list[dict]:
    pictures = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": words}]}]


def test_albef_chooses_a_label_for_one_picture_or_two() -> None:
    from chiasm.models.albef import ENTAILMENT, Labels

    for head, images in ((Labels(labels=ENTAILMENT), [RED]), (Labels(labels=("False", "True"), images=2), [RED, BLUE])):
        model = albef(head)
        talks = [ask(images, "a red cat"), ask(images[::-1], "two dogs and a yellow ball")]
        together = model.generate(talks)
        for talk, reply in zip(talks, together, strict=True):
            assert reply.text in head.labels
            scores = [score.total for score in model.score(talk, head.labels)]
            assert reply.logprobs[0] == pytest.approx(max(scores), abs=1e-5)
            assert sum(torch.tensor(scores).exp()) == pytest.approx(1.0, abs=1e-5)
        with pytest.raises(PromptError, match="images, the model takes"):
            model.generate([ask([RED] * (len(images) + 1), "a")])
        with pytest.raises(PromptError, match="answer_unknown"):
            model.score(talks[0], ["perhaps"])


def test_albef_answers_questions_and_the_cache_changes_nothing() -> None:
    from chiasm.models.albef import Questions

    model = albef(Questions(num_layers=2, start_id=2))
    talks = [ask([RED], "what is it?"), ask([BLUE], "how many birds are there in the picture?")]
    together = model.generate(talks, max_new_tokens=5)
    for talk, reply in zip(talks, together, strict=True):
        assert model.generate(talk, max_new_tokens=5)[0].token_ids == reply.token_ids
    assert decoded_beside_whole(model.module, model.processor(talks), 2) <= 1e-5


@pytest.mark.parametrize("name", ["albef", "blip", "blip2_retrieval", "internvl_g", "vilt"])
def test_a_picture_in_many_pairs_is_seen_once_and_scores_as_alone(name: str) -> None:
    model = chiasm.new(name)
    own, seen = model.module.visual_features, []

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return own(pixels)

    model.module.visual_features = counted
    red, blue = Image.new("RGB", (40, 32), "red"), Image.new("RGB", (32, 40), "blue")
    texts = [f"{count} birds" for count in range(40)]
    together = model.match(red, texts)
    if name != "vilt":  # whose pictures are pixels until the stream
        assert sum(seen) == 1
    both = model.match([red, blue] * 20, texts)
    assert sum(seen) <= 4 or name == "vilt"
    alone = torch.cat([model.match([(red, blue)[at % 2]], [texts[at]]) for at in range(0, 40, 7)])
    assert (both[::7] - alone).abs().max() <= 1e-5 and (both[::2] - together[::2]).abs().max() <= 1e-5
