"""Scenes and questions: pure functions of their numbers, exact, balanced, with splits that don't leak."""

from collections import Counter

import pytest
from PIL import Image

from chiasm.core.errors import ConfigError
from chiasm.data.worlds.questions import KINDS, sample_question, sample_questions
from chiasm.data.worlds.scenes import LAYOUTS, draw, sample_scene
from chiasm.data.worlds.vocabulary import held_out_pair, nouns, nouns_of

RED = (250, 0, 0, 255)


def red(key: str) -> Image.Image:
    return Image.new("RGBA", (40, 40), RED)


def test_a_scene_is_a_function_of_its_numbers():
    assert sample_scene(1, "train", 7) == sample_scene(1, "train", 7)
    assert draw(sample_scene(1, "train", 7), red).tobytes() == draw(sample_scene(1, "train", 7), red).tobytes()
    others = [sample_scene(2, "train", 7), sample_scene(1, "train", 8), sample_scene(1, "val", 7)]
    assert all(other != sample_scene(1, "train", 7) for other in others)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_boxes_lie_inside_and_apart(layout):
    for index in range(60):
        scene = sample_scene(0, "train", index, layout)
        boxes = [thing.box for thing in scene.things]
        for number, (x0, y0, x1, y1) in enumerate(boxes):
            assert -1e-6 <= x0 < x1 <= scene.size[0] + 1e-6 and -1e-6 <= y0 < y1 <= scene.size[1] + 1e-6
            for a0, b0, a1, b1 in boxes[:number]:
                assert x0 >= a1 or a0 >= x1 or y0 >= b1 or b0 >= y1


def test_what_is_drawn_stands_in_its_box():
    scene = next(
        s
        for s in (sample_scene(0, "train", i, "single") for i in range(100))
        if s.background.kind == "plain" and s.background.first[0] < 200 and not s.things[0].angle
    )
    picture = draw(scene, red)
    pixels = picture.load()
    x, y = scene.things[0].center
    assert pixels[int(x), int(y)] == RED[:3]
    x0, y0, x1, y1 = scene.things[0].box
    found = [(i, j) for i in range(picture.width) for j in range(picture.height) if pixels[i, j] == RED[:3]]
    assert min(i for i, _ in found) >= x0 - 1 and max(i for i, _ in found) <= x1 + 1
    assert min(j for _, j in found) >= y0 - 1 and max(j for _, j in found) <= y1 + 1


def test_training_scenes_hold_no_held_out_pair_and_test_scenes_do():
    for index in range(300):
        names = list(sample_scene(0, "train", index).counts())
        assert not any(held_out_pair(a, b) for a in names for b in names)
        names = list(sample_scene(0, "test", index, "mixed").counts())
        assert any(held_out_pair(a, b) for a in names for b in names)


def test_unseen_pictures_are_drawn_by_no_other_split():
    unseen = {key for noun in nouns() for key in noun.unseen}
    assert len(unseen) >= 50
    for index in range(200):
        assert all(thing.picture not in unseen for thing in sample_scene(0, "train", index).things)
        assert all(thing.picture in unseen for thing in sample_scene(0, "unseen", index).things)


def test_every_name_keeps_a_seen_picture():
    assert len(nouns_of("train")) == len(nouns()) >= 300
    assert len({noun.name for noun in nouns()}) == len(nouns())
    assert {noun.name: noun.plural for noun in nouns()} | {"baby": "babies", "bus": "buses", "mouse": "mice"} == {
        noun.name: noun.plural for noun in nouns()
    }


def test_answers_are_balanced():
    answers = {kind: Counter(sample_question(0, "test", i, kind)[1].answer for i in range(600)) for kind in KINDS}
    assert abs(answers["yes_no"]["yes"] - 300) < 60
    assert set(answers["counting"]) == set("12345") and max(answers["counting"].values()) < 160
    assert len(answers["position"]) == 9 and max(answers["position"].values()) < 110
    assert max(answers["naming"].values()) < 15


def test_answers_are_true():
    for index in range(200):
        scene, questions = sample_questions(0, "train", index, 6)
        for question in questions:
            if question.kind == "yes_no":
                asked = [n.name for n in scene.counts() and nouns() if f" {n.with_article}" in question.text]
                here = any(name in scene.counts() for name in asked)
                assert here or question.answer == "no"
            elif question.kind == "counting":
                assert question.answer in {str(count) for count in scene.counts().values()}
            elif question.kind == "naming":
                assert question.answer in scene.counts()
            elif question.kind == "position":
                assert question.answer in {scene.cell(thing) for thing in scene.things}


def test_cells_follow_the_thing():
    scene = sample_scene(0, "test", 3, "single")
    thing = scene.things[0]
    x, y = thing.center
    column = ("left", "", "right")[int(3 * x / scene.size[0])]
    row = ("top", "", "bottom")[int(3 * y / scene.size[1])]
    assert scene.cell(thing) == (f"{row} {column}".strip() or "center")


def test_unknown_words_are_named():
    with pytest.raises(ConfigError, match="split_unknown"):
        sample_scene(0, "tests", 0)
    with pytest.raises(ConfigError, match="layout_unknown"):
        sample_scene(0, "test", 0, "round")
    with pytest.raises(ConfigError, match="question_kind_unknown"):
        sample_question(0, "test", 0, "why")
