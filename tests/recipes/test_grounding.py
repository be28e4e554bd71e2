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
from chiasm.data.worlds.director import Director, World, cast
from chiasm.data.worlds.tasks import grounding
from chiasm.data.worlds.world import Scenes
from chiasm.recipes.grounding import numbering_tokenizer
from chiasm.recipes.trainings.grounding import BINS, CellLoss, cell_targets


def test_numbers_are_hundredths_and_thousandths() -> None:
    tokenizer = numbering_tokenizer(1200)
    for text, pieces in (("(573,8)", ["57", "3", "8"]), ("(40,999)", ["4", "0", "99", "9"]), ("(0,1000)", ["0", "1"])):
        found = [tokenizer.id_to_token(i) for i in tokenizer.encode(text)]
        assert [piece for piece in found if piece[0].isdigit()][: len(pieces)] == pieces
        assert tokenizer.decode(tokenizer.encode(text)) == text


class Boxed:
    """A stage of bare boxes."""

    size = (70, 70)

    def __init__(self, boxes):  # type: ignore[no-untyped-def]
        self.boxes = boxes
        names = cast(100, "all")[0]
        self.actors = [type("Actor", (), {"name": names[i].name, "at": i})() for i in range(len(boxes))]

    def box(self, actor):  # type: ignore[no-untyped-def]
        return self.boxes[actor.at]


def test_a_cell_knows_what_covers_it() -> None:
    names, sides = cell_targets(Boxed([(0, 0, 30, 20), (41, 41, 48, 48)]), 49)
    nothing = len(cast(100, "all")[0])
    grid = names.view(7, 7)
    assert grid[0, :3].tolist() == [0, 0, 0] and grid[1, :3].tolist() == [0, 0, 0]
    assert grid[4, 4] == 1 and (grid == 1).sum() == 1  # smaller than a cell: where its middle lies
    assert (grid == nothing).sum() == 49 - 7
    assert sides.view(7, 7, 4)[1, 2].tolist() == pytest.approx([0, 0, 30 / 70, 20 / 70])


def test_the_loss_is_least_where_names_and_sides_are_right() -> None:
    names, sides = cell_targets(Boxed([(0, 0, 30, 20)]), 49)
    classes = len(cast(100, "all")[0]) + 1
    right = torch.zeros(1, 49, classes + 4 * BINS)
    right.scatter_(2, names[None, :, None], 20.0)
    for side in range(4):
        at = (sides[:, side] * BINS).long().clamp(max=BINS - 1)
        right[0, torch.arange(49), classes + side * BINS + at] = 8.0
    module = {"connector": lambda x: x, "head": lambda x: x}
    batch = (names[None], sides[None])
    good = CellLoss()(module, (right, *batch))
    bad = CellLoss()(module, (right.roll(1, 1), *batch))
    assert good["loss"] < bad["loss"] and good["off"] <= 1 / BINS
    assert good["what"] < 0.01


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
