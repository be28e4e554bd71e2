"""The generated world as a data set: pure, true, balanced, and with splits that leak nothing."""

from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import ConfigError, DataError
from chiasm.core.media import Film, LazyPicture
from chiasm.core.messages import TextPart, VideoPart
from chiasm.core.samples import Dataset
from chiasm.data.collation import taken_apart
from chiasm.data.named import open_named
from chiasm.data.worlds import sprites as sprites_module
from chiasm.data.worlds.director import Director, World, cast, held_out_pair, invented
from chiasm.data.worlds.phrases import EVERY
from chiasm.data.worlds.sprites import COLOURS, Sprites
from chiasm.data.worlds.stage import Stage, at, cell_at
from chiasm.data.worlds.tasks import several
from chiasm.data.worlds.tasks.reading import Chart, words_of
from chiasm.data.worlds.vocabulary import nouns
from chiasm.data.worlds.world import DEFAULT, TASKS, Scenes

CLOSED = ("position", "counting", "comparison", "yes_no", "negation", "pairs", "odd_one_out", "entailment", "few_shot",
          "binding")  # fmt: skip
HEARD = {"train": "seen", "val": "seen", "unseen": "seen", "test": "held_out"}


@pytest.fixture(autouse=True)
def drawn_without_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every thing is a disc with a notch, so that no pack is needed; two fixed shapes tell things apart."""

    def decoded(self: Sprites, key: str, level: int) -> Image.Image:
        wide = sum(key.encode()) % 3 == 0
        shape = (level // 2, level) if wide else (level, level)
        art = np.zeros((*shape, 4), np.uint8)
        y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
        inside = ((y + 0.5) / shape[0] - 0.5) ** 2 + ((x + 0.5) / shape[1] - 0.5) ** 2 <= 0.25
        art[inside] = (90, 160, 200, 255)
        return Image.fromarray(art, "RGBA")

    monkeypatch.setattr(Sprites, "decoded", decoded)
    monkeypatch.setattr(sprites_module, "_large", lambda source, key: decoded(source, key, 400))
    sprites_module._shaped.cache_clear()


def stages(sample) -> list[Stage]:  # type: ignore[no-untyped-def]
    return [part.source for part in sample.conversation.images() if isinstance(part.source, Stage)]


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_is_a_function_of_its_numbers_and_ends_with_its_answer(task: str) -> None:
    for split in ("train", "val", "test", "unseen"):
        data, again = Scenes(split, [task], 40), Scenes(split, [task], 4000)
        assert isinstance(data, Dataset) and len(data) == 40 and data.fingerprint != again.fingerprint
        for index in (0, 7, 39):
            sample, other = data[index], again[index]
            assert repr(sample.conversation) == repr(other.conversation) and sample.key == other.key
            assert sample.conversation.messages[-1].text in sample.annotations["answers"]
            assert all(isinstance(part.source, LazyPicture) for part in sample.conversation.images())
            if "choices" in sample.annotations:
                assert sample.annotations["answers"][0] in sample.annotations["choices"]
    keys = [sample.key for sample in Scenes("train", [task], 30)]
    assert len(set(keys)) == 30


def test_every_picture_can_be_drawn_and_says_so_beforehand() -> None:
    for sample in Scenes("test", list(TASKS), 2 * len(TASKS), World(size=64)):
        for part in sample.conversation.images():
            picture = part.source.picture()
            assert picture.mode == "RGB" and np.array_equal(picture, part.source.picture())
            if not sample.annotations["task"].startswith("small"):
                assert picture.size == (64, 64)
            assert part.source.words()
    prints = [
        part.source.fingerprint for sample in Scenes("train", ["pairs"], 50) for part in sample.conversation.images()
    ]
    assert len(set(prints)) == 100


def test_the_splits_hold_out_wordings() -> None:
    for name, phrases in EVERY.items():
        assert not set(phrases.seen) & set(phrases.held_out), name
    said = defaultdict(set)
    for split in ("train", "val", "unseen", "test"):
        for sample in Scenes(split, ["describe", "naming", "text", "charts"], 400):
            said[split].add(sample.conversation.messages[0].text)
    assert not said["train"] & said["test"]
    assert said["train"] & said["val"] and said["train"] & said["unseen"]


def test_the_splits_hold_out_pairs_pictures_and_words() -> None:
    unseen = {key for noun in nouns() for key in noun.unseen}
    one_picture = [task for task in DEFAULT if task != "counting"]
    met, coloured = 0, 0
    for split in ("train", "val", "test", "unseen"):
        for sample in Scenes(split, [*one_picture, "pairs", "dialogue", "referring", "odd_one_out"], 550):
            for stage in stages(sample):
                names = sorted({actor.name for actor in stage.actors})
                pairs = [held_out_pair(a, b) for i, a in enumerate(names) for b in names[:i]]
                paint = [held_out_pair(f"colour {a.colour}", a.name) for a in stage.actors if a.colour]
                drawn = {actor.picture in unseen for actor in stage.actors}
                assert drawn <= {split == "unseen"}
                if split in ("train", "val"):
                    assert not any(pairs) and not any(paint), sample.key
                elif split == "test":
                    met, coloured = met + any(pairs), coloured + any(paint)
    assert met > 100 and coloured > 100
    assert not set(words_of("train")) & set(words_of("test")) and set(words_of("val")) == set(words_of("train"))
    assert not set(invented(True)) & set(invented(False)) and min(len(invented(True)), len(invented(False))) >= 20


def test_new_names_are_bound_in_tests_to_things_that_no_scene_shows() -> None:
    known, new = cast(100, "all")
    assert not {noun.name for noun in known} & {noun.name for noun in new}
    held_out = {key for noun in new for key in noun.unseen}
    splits = (("train", known, invented(False)), ("test", new, invented(True)), ("unseen", new, invented(True)))
    for split, things, words in splits:
        for sample in [*Scenes(split, ["few_shot"], 60, World(shots=2, ways=3)),
                       *Scenes(split, ["binding"], 60, World(shots=2, ways=3))]:  # fmt: skip
            assert set(sample.annotations["things"]) <= {noun.name for noun in things}
            assert set(sample.annotations["choices"]) <= set(words)
            turns = sample.conversation.messages
            assert len(turns) == 2 * (sample.annotations["shots"] + 1) == 14
            bound = {
                part.source.actors[0].name: turns[2 * i + 1].text for i, part in enumerate(sample.conversation.images())
            }
            assert len(bound) == 3 == len(set(bound.values()))
            drawn = {actor.picture in held_out for stage in stages(sample) for actor in stage.actors}
            assert drawn == {split == "unseen"}
    with pytest.raises(ConfigError, match="nouns is 300, which leaves unseen 0 new things of the 2 in an episode"):
        next(iter(Scenes("unseen", ["binding"], 1, World(nouns=300))))


def test_binding_shows_few_different_pictures_of_a_thing() -> None:
    shown: dict[str, set[str]] = defaultdict(set)
    for sample in Scenes("train", ["binding"], 300, World(shots=4, nouns=12)):
        for stage in stages(sample):
            shown[stage.actors[0].name].add(stage.fingerprint)
    assert len(shown) == 12 and all(len(pictures) == several.POSES for pictures in shown.values())


@pytest.mark.parametrize("task", CLOSED)
def test_who_sees_nothing_gains_nothing(task: str) -> None:
    """A reader of words alone, trained on 1,500 questions, is no better on 500 others than one who guesses."""
    train, test = Scenes("train", [task], 1500), Scenes("val", [task], 500)

    def features(sample) -> list[str]:  # type: ignore[no-untyped-def]
        words = sample.conversation.messages[-2].text.lower().replace("?", "").split()
        kind = sample.annotations["kind"]
        return [kind, *(f"{kind} {word}" for word in words)]

    def slots(sample) -> tuple[str, list[str]]:  # type: ignore[no-untyped-def]
        """The answer, as the place among the choices where these differ from question to question."""
        answer, choices = sample.annotations["answers"][0], sample.annotations.get("choices", ())
        varied = sample.annotations["kind"] in ("larger", "missing", "few_shot", "binding")
        return (str(choices.index(answer)) if varied else answer), list(choices)

    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in train:
        if "choices" in sample.annotations:
            for word in features(sample):
                counts[word][slots(sample)[0]] += 1
    right, chance, asked = 0, Fraction(0), 0
    for sample in test:
        if "choices" not in sample.annotations:
            continue
        answer, choices = slots(sample)
        labels = sorted({label for word in counts for label in counts[word]})
        kind = sample.annotations["kind"]
        labels = [label for label in labels if counts[kind][label]]
        scores = {
            label: np.log(counts[kind][label])
            + sum(np.log((counts[w][label] + 1) / (counts[kind][label] + 20)) for w in features(sample)[1:])
            for label in labels
        }
        right += max(scores, key=lambda label: scores[label]) == answer
        chance += Fraction(1, len(choices))
        asked += 1
    gain = (right - float(chance)) / asked
    assert asked >= 150 and gain < 2.6 * 0.5 / asked**0.5, f"{right} of {asked} right, by chance {float(chance):.0f}"


def test_answers_are_true() -> None:
    for sample in Scenes("test", ["position", "counting", "attribute", "yes_no", "negation", "comparison"], 900):
        stage, answer = stages(sample)[0], sample.annotations["answers"][0]
        question, kind, counts = sample.conversation.messages[0].text, sample.annotations["kind"], stage.counts()
        actors = {actor.name: actor for actor in stage.actors}
        named = [name for name in actors if f" {name}" in question]
        if kind == "position":
            assert any(stage.cell(actors[name]) == answer for name in named)
        elif kind == "counting":
            assert int(answer) in counts.values()
        elif kind == "colour":
            assert any(actors[name].colour == answer for name in named)
        elif kind == "coloured":
            assert [actor.name for actor in stage.actors if f"{actor.colour}" in question] == [answer]
        elif kind == "missing":
            assert answer not in counts and answer in question
        elif kind == "not_coloured":
            colour = next(colour for colour in COLOURS if colour in question)
            assert [actor.name for actor in stage.actors if actor.colour != colour] == [answer]
        elif kind == "larger":
            large, small = sorted(stage.actors, key=lambda actor: -actor.edge)
            assert large.edge >= 1.4 * small.edge and answer == (large if "larger" in question else small).name
        elif kind == "size":
            assert (stage.actors[0].edge > 90) == (answer == "big")
        elif kind == "yes_no" and answer == "yes":
            assert any(actor.phrase in question for actor in stage.actors)
        elif kind == "yes_no":
            assert not any(f" {actor.phrase}" in question for actor in stage.actors if actor.colour)


def test_boxes_hold_what_is_drawn_and_nothing_more() -> None:
    for sample in Scenes("train", ["boxes", "referring", "points"], 90):
        (stage,) = stages(sample)
        for number, actor in enumerate(stage.actors):
            x0, y0, x1, y1 = stage.box(actor)
            assert 0 <= x0 < x1 <= 224 and 0 <= y0 < y1 <= 224
            alone = Stage(size=stage.size, background=stage.background, elements=(actor,))
            empty = Stage(size=stage.size, background=stage.background, elements=())
            seen = np.asarray(alone.picture(), int) != np.asarray(empty.picture(), int)
            rows, columns = np.nonzero(seen.any(-1).any(1))[0], np.nonzero(seen.any(-1).any(0))[0]
            assert abs(columns[0] - x0) <= 1 and abs(columns[-1] + 1 - x1) <= 1, number
            assert abs(rows[0] - y0) <= 1 and abs(rows[-1] + 1 - y1) <= 1, number
        boxes = [tuple(entry["box"]) for entry in sample.annotations["boxes"]]
        assert set(boxes) <= {stage.box(actor) for actor in stage.actors}
        if sample.annotations["kind"] == "referring":
            assert len({actor.name for actor in stage.actors}) < len(stage.actors)
        for entry in sample.annotations.get("points", ()):
            x, y = entry["point"]
            assert any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in boxes)


def test_things_stand_apart_and_away_from_the_lines_between_cells() -> None:
    for sample in Scenes("train", ["counting", "comparison", "boxes"], 150):
        (stage,) = stages(sample)
        for number, actor in enumerate(stage.actors):
            x, y = actor.center
            assert stage.cell(actor) == cell_at((x + 2, y + 2), stage.size) == cell_at((x - 2, y - 2), stage.size)
            for other in stage.actors[:number]:
                gap = max(abs(x - other.center[0]), abs(y - other.center[1]))
                assert gap > (actor.edge + other.edge) / 2 - 1


def test_statements_about_two_pictures_are_true_or_false() -> None:
    for sample in Scenes("test", ["pairs"], 300):
        statement, label = sample.annotations["statement"], sample.annotations["label"]
        left, right = (stage.counts() for stage in stages(sample))
        shown = [name for name in {**left, **right} if statement.endswith((f" a {name}.", f" an {name}."))]
        assert (sample.annotations["answers"][0] == "true") == label
        if statement.startswith("Both"):
            assert label == any(left[name] and right[name] for name in shown)
        elif statement.startswith("Exactly one"):
            assert label == any(bool(left[name]) != bool(right[name]) for name in shown)


def test_entailment_follows_from_what_is_seen_and_what_is_hidden() -> None:
    labels = Counter()
    for sample in Scenes("train", ["entailment"], 300):
        (stage,) = stages(sample)
        hidden = len(stage.elements) > len(stage.actors)
        shown = any(f" {actor.phrase}." in sample.annotations["statement"] for actor in stage.actors)
        expected = "entailment" if shown else "neutral" if hidden else "contradiction"
        assert sample.annotations["answers"] == (expected,)
        labels[expected, hidden] += 1
    assert min(labels.values()) > 30 and len(labels) == 4


def test_charts_and_signs_show_what_is_asked() -> None:
    for sample in Scenes("unseen", ["charts", "text"], 80):
        source = next(iter(sample.conversation.images())).source
        answer, question = sample.annotations["answers"][0], sample.conversation.messages[0].text
        if isinstance(source, Chart):
            values = dict(zip(source.names, source.values, strict=True))
            if sample.annotations["kind"] == "chart_value":
                assert any(str(value) == answer and name in question for name, value in values.items())
            else:
                assert values[answer] == (max if "highest" in question else min)(values.values())
        else:
            assert answer in [element.text for element in source.elements] and answer in words_of("unseen")


def test_films_show_their_parts_at_their_times() -> None:
    for sample in Scenes("train", ["temporal"], 20, World(size=64)):
        part = sample.conversation.messages[0].parts[0]
        assert isinstance(part, VideoPart) and isinstance(part.source, Film) and part.fps == part.source.fps
        film = part.source
        for start, stop in sample.annotations["spans"]:
            assert 0 <= start < stop < film.duration
            for moment, there in ((start, True), (stop - 0.01, True), (stop, False), (start - 0.01, False)):
                if moment >= 0:
                    shown = [actor for actor in film.stage(moment).actors]
                    phrase = sample.annotations["phrase"]
                    assert any(phrase in (actor.phrase, actor.name) for actor in shown) == there
        assert film.frame(0.0).size == (64, 64)
    with pytest.raises(ConfigError, match="moment_outside"):
        film.frame(film.duration)


def test_an_hour_of_film_costs_no_more_than_its_list() -> None:
    sample = Scenes("test", ["temporal"], 1, World(size=96, seconds=3600))[0]
    film = sample.conversation.messages[0].parts[0].source
    assert film.duration == 3600 and len(film.parts) == 1200
    frames = [film.frame(second) for second in range(0, 3600, 120)]
    assert len({frame.tobytes() for frame in frames}) > 10
    assert 1 <= len(sample.annotations["spans"]) <= 3


def test_video_questions_are_answered_by_the_film() -> None:
    for sample in Scenes("test", ["video"], 200):
        part, text = sample.conversation.messages[0].parts
        assert isinstance(text, TextPart)
        film, answer, kind = part.source, sample.annotations["answers"][0], sample.annotations["kind"]
        names = [part.actor.name for part in film.parts]
        if kind == "video_count":
            assert int(answer) == len(film.parts)
        elif kind == "video_order":
            assert answer == names[-1 if "last" in text.text else 0]
        elif kind == "video_before":
            first, second = sorted(names[:2], key=text.text.index)
            assert (names.index(first) < names.index(second)) == (answer == "yes")


def test_names_open_data_sets() -> None:
    data = open_named("scenes:test:counting,yes_no?size=128&count=10&nouns=20")
    assert isinstance(data, Scenes) and (data.split, data.tasks, len(data)) == ("test", ("counting", "yes_no"), 10)
    assert data.world == World(size=128, nouns=20) and data.name == "scenes:test:counting,yes_no"
    assert open_named("scenes").fingerprint == open_named("scenes:train").fingerprint
    assert len(open_named("scenes:split=test,count=7,size=128")) == 7
    for wrong, code in (
        ("scenes:counts", "task_unknown"),
        ("scenes:test?sizes=3", "data_setting"),
        ("scenes?size=3", "option_out_of_range"),
        ("scenes?art=oil", "art_unknown"),
        ("scene", "data_unknown"),
    ):
        with pytest.raises((ConfigError, DataError), match=code):
            open_named(wrong)


@pytest.mark.parametrize(("task", "word"), [("small_names", "name"), ("small_signs", "text")])
def test_small_things_are_asked_for_by_their_places_all_of_them_in_training(task: str, word: str) -> None:
    for split in ("train", "val"):
        for sample in Scenes(split, [task], 12, World(size=112, nouns=12)):
            (stage,) = stages(sample)
            assert max(stage.size) == 448 and 4 <= len(stage.elements) <= 6
            turns = sample.conversation.messages
            assert len(turns) == 2 * (len(stage.elements) if split == "train" else 1)
            for element, asked, answered in zip(stage.elements, turns[::2], turns[1::2], strict=False):
                box = stage.box(element)
                assert box[2] - box[0] < 0.3 * 448 and box[3] - box[1] < 0.1 * 448
                assert answered.text == getattr(element, word) == element.name and at(stage.cell(element)) in asked.text
            assert {answered.text for answered in turns[1::2]} <= {noun.name for noun in cast(12, "all")[0]}
            apart = taken_apart(sample.conversation)
            assert [one.messages[1] for one in apart] == [*turns[1::2]]
            assert all([part.source for part in one.images()] == [stage] for one in apart)


def test_a_world_of_too_few_names_says_so() -> None:
    director = Director(World(nouns=12), "train", 0, "position")
    with pytest.raises(ConfigError, match="12 names|among 12") as caught:
        director.names(12)
    assert caught.value.code == "option_out_of_range"
    with pytest.raises(ConfigError, match="may stand beside"):
        director.another(director.pool)
