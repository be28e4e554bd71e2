"""The pico recipe that learns boxes: what it is taught, cell by cell and word by word."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from chiasm.core.errors import PromptError
from chiasm.core.messages import Conversation, ImagePart, Message
from chiasm.core.plan import ImagePlan
from chiasm.core.registry import family
from chiasm.core.samples import Place, Sample
from chiasm.data.collation import Grounded, located
from chiasm.data.worlds.backgrounds import Background
from chiasm.data.worlds.director import Director, World, cast
from chiasm.data.worlds.stage import Actor, Stage
from chiasm.data.worlds.tasks import grounding
from chiasm.data.worlds.world import Scenes
from chiasm.recipes.grounding import numbering_tokenizer
from chiasm.recipes.trainings.grounding import BINS, MOST_WORDS, CellLoss, cell_targets


def test_numbers_are_hundredths_and_thousandths() -> None:
    tokenizer = numbering_tokenizer(1200)
    for text, pieces in (("(573,8)", ["57", "3", "8"]), ("(40,999)", ["4", "0", "99", "9"]), ("(0,1000)", ["0", "1"])):
        found = [tokenizer.id_to_token(i) for i in tokenizer.encode(text)]
        assert [piece for piece in found if piece[0].isdigit()][: len(pieces)] == pieces
        assert tokenizer.decode(tokenizer.encode(text)) == text


def stage_of(*places, colours=()):  # type: ignore[no-untyped-def]
    """Things of the world's first two names at (middle, edge), on a picture of 210 pixels."""
    nouns = cast(100, "all")[0][:2]
    painted = [*colours, *[None] * len(places)]
    actors = [
        Actor(noun=nouns[name], picture=nouns[name].seen[0], center=middle, edge=edge, colour=colour)
        for (name, middle, edge), colour in zip(places, painted, strict=False)
    ]
    white = (255, 255, 255)
    background = Background(kind="plain", first=white, second=white, seed=0, pitch=0.1)
    return Stage(size=(210, 210), background=background, elements=(*actors,))


def words(stage, cells=49):  # type: ignore[no-untyped-def]
    tokenizer = numbering_tokenizer(1200)
    ids, sides = cell_targets(stage, cells, tokenizer.encode)
    said = [{tokenizer.id_to_token(i).removeprefix("Ġ") for i in row.tolist() if i > 0} for row in ids]
    return said, sides, ids


def test_a_cell_says_the_words_of_what_covers_it() -> None:
    stage = stage_of((0, (45, 45), 90), (1, (195, 165), 12))
    first, second = (actor.name for actor in stage.actors)
    said, sides, ids = words(stage)
    assert said[8] == {first} and said[5 * 7 + 6] == {second}
    assert sum(second in cell for cell in said) == 1  # smaller than a cell: where its middle lies
    assert said[6] == set() and ids[6].tolist() == [0] + [-1] * (MOST_WORDS - 1)
    box = stage.box(stage.actors[0])
    assert sides[8].tolist() == pytest.approx([side / 210 for side in box])


def test_what_tells_two_of_a_name_apart_is_said_of_the_right_one() -> None:
    stage = stage_of((0, (105, 35), 40), (0, (175, 175), 70), colours=("red", "blue"))
    name = stage.actors[0].name
    said, _, _ = words(stage)
    assert said[7 + 3] == {name, "red", "top", "smaller"}
    assert said[5 * 7 + 5] == {name, "blue", "bottom", "right", "larger"}


def test_the_loss_is_least_where_words_and_sides_are_right() -> None:
    _, sides, ids = words(stage_of((0, (45, 45), 90)))
    right = torch.zeros(1, 49, 1000 + 4 * BINS)
    spoken = ids.clamp(min=0)
    right.scatter_(2, spoken[None], 20.0)
    right[0, ids[:, 0] > 0, 0] = 0.0  # where −1 stood
    for side in range(4):
        at = (sides[:, side] * BINS).long().clamp(max=BINS - 1)
        right[0, torch.arange(49), 1000 + side * BINS + at] = 8.0
    module = {"connector": lambda x: x, "language": lambda x: x[..., :1000], "head": lambda x: x[..., 1000:]}
    good = CellLoss()(module, (right, ids[None], sides[None]))
    bad = CellLoss()(module, (right.roll(1, 1), ids[None], sides[None]))
    assert good["loss"] < bad["loss"] and good["off"] <= 1 / BINS
    assert good["what"] < 0.01 and good["named"] == 1 > bad["named"]


def test_every_phrase_of_a_scene_names_its_boxes_and_no_others() -> None:
    kinds = set()
    for index in range(40):
        row = grounding.places(Director(World(), "train", index, "places"))
        stage = row.turns[0].asked[0].source
        assert len(row.turns) == len({box["phrase"] for box in row.truth["boxes"]}) <= grounding.PLACES
        for phrase, actors in grounding.named(stage):
            same = [actor for actor in stage.actors if actor.name == actors[0].name]
            if phrase == actors[0].name:
                assert actors == same
            elif " at the " in phrase or " on the " in phrase or " in the " in phrase:
                kinds.add("place")
                assert [
                    a for a in same if phrase.endswith(stage.cell(a)) and stage.cell(a) == stage.cell(actors[0])
                ] == actors
            elif phrase.startswith("larg"):
                kinds.add("size")
                assert actors[0].edge == max(actor.edge for actor in same)
            elif phrase.startswith("small"):
                assert actors[0].edge == min(actor.edge for actor in same)
            else:
                kinds.add("colour")
                assert phrase == actors[0].phrase
    assert kinds == {"place", "size", "colour"}


def test_boxes_are_asked_for_and_written_as_the_family_does() -> None:
    config, processor = family("qwen_vl").tiny()
    sample = Scenes("train", ["places"], 3)[1]
    style = family("qwen_vl").places
    assert style is not None
    size = sample.conversation.messages[0].parts[0].source.size
    plan: ImagePlan = processor.image_processor.plan(size)
    asked_for = set()
    for one in located(sample, style, processor):
        asked, answered = one.conversation.messages
        phrase = asked.text.removeprefix("Locate ").removesuffix(".")
        asked_for.add(phrase)
        wanted = [marked["box"] for marked in sample.annotations["boxes"] if marked["phrase"] == phrase]
        read = [place.box for place in style.read(answered.text, plan).places]
        assert len(read) == len(wanted)
        for box, true in zip(read, wanted, strict=True):
            assert max(abs(a - b) for a, b in zip(box, true, strict=True)) <= max(size) / 1000 + 1e-6
    assert asked_for == {marked["phrase"] for marked in sample.annotations["boxes"]}
    batch = Grounded(family="qwen_vl").build(processor)([sample])
    assert batch.labels is not None and (batch.labels >= 0).any()
    assert batch.segments is not None and len(batch.plans) == 1  # blind to each other, over one picture
    bare = Sample(
        key="x",
        conversation=Conversation((Message("user", (ImagePart(Image.new("RGB", (8, 8))),)),)),
        place=Place("here", 0),
    )
    with pytest.raises(PromptError) as caught:
        located(bare, style, processor)
    assert caught.value.code == "sample_no_boxes"
