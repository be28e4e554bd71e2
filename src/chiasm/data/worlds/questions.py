"""Questions about scenes with exact answers, balanced so that a model that sees nothing gains nothing.

Each maker takes a random stream and a `Scene` and returns a `Question`, or None when the scene doesn't
fit. Yes and no are even, counts of the asked thing are uniform from 1 to 5, the nine positions are
uniform, and names are uniform over the vocabulary; `sample_question` builds one scene for one kind, and
`sample_questions` asks several questions about one scene for training.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chiasm.core.errors import ConfigError
from chiasm.data.worlds.scenes import Scene, Thing, sample_scene, stream
from chiasm.data.worlds.vocabulary import nouns

KINDS = ("naming", "position", "counting", "yes_no", "caption")
_NUMBERS = ("no", "one", "two", "three", "four", "five")
_LAYOUT = {"naming": None, "position": None, "counting": "group", "yes_no": None, "caption": None}

_NAMING = (
    "What is in the picture?",
    "What is this?",
    "What do you see?",
    "What is shown in the picture?",
    "Name the object.",
    "What object is this?",
    "What is in the image?",
    "What can you see in the picture?",
)
_NAMING_MANY = (
    "What are these?",
    "What is in the picture?",
    "What is shown in the picture?",
    "What objects are these?",
)
_NAMING_AT = (
    "What is {where}?",
    "What is {where} of the picture?",
    "What do you see {where}?",
    "Which object is {where}?",
)
_POSITION = (
    "Where is the {name}?",
    "Where is the {name} in the picture?",
    "In which part of the picture is the {name}?",
    "Where in the image is the {name}?",
    "Where do you see the {name}?",
    "What is the position of the {name}?",
)
_COUNTING = (
    "How many {names} are there?",
    "How many {names} are in the picture?",
    "How many {names} do you see?",
    "Count the {names}.",
    "How many {names} can you see?",
    "What is the number of {names}?",
)
_YES_NO = (
    "Is there {a_name}?",
    "Is there {a_name} in the picture?",
    "Do you see {a_name}?",
    "Is there {a_name} here?",
    "Does the picture show {a_name}?",
    "Can you see {a_name} in the image?",
)
_CAPTION = (
    "Describe the picture.",
    "Describe the image briefly.",
    "Write a short caption.",
    "What does the picture show?",
    "Caption this image.",
    "What things are in the picture?",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question about a scene, its only answer, and what kind of question it is."""

    kind: str
    text: str
    answer: str


def name_question(rng: random.Random, scene: Scene) -> Question | None:
    """Ask what the picture shows (one name), or what stands at one of its sides, corners or middle."""
    counts = scene.counts()
    if len(counts) == 1:
        phrases = _NAMING if len(scene.things) == 1 else _NAMING_MANY
        return Question(kind="naming", text=rng.choice(phrases), answer=scene.things[0].name)
    alone = [
        thing for thing in scene.things if sum(scene.cell(thing) == scene.cell(other) for other in scene.things) == 1
    ]
    if not alone:
        return None
    thing = rng.choice(alone)
    return Question(kind="naming", text=rng.choice(_NAMING_AT).format(where=_at(scene.cell(thing))), answer=thing.name)


def position_question(rng: random.Random, scene: Scene) -> Question | None:
    """Ask where a thing that stands there once is: `left`, `top right`, …, `center`."""
    single = [thing for thing in scene.things if scene.counts()[thing.name] == 1]
    if not single:
        return None
    thing = rng.choice(single)
    return Question(kind="position", text=rng.choice(_POSITION).format(name=thing.name), answer=scene.cell(thing))


def counting_question(rng: random.Random, scene: Scene) -> Question | None:
    """Ask how many of the most frequent name there are, in digits (one is as likely as five in a group)."""
    noun = _main(scene).noun
    phrase = rng.choice(_COUNTING).format(names=noun.plural)
    return Question(kind="counting", text=phrase, answer=str(scene.counts()[noun.name]))


def yes_no_question(rng: random.Random, scene: Scene) -> Question:
    """Ask whether a name is there; yes and no are equally likely, and so is every name."""
    present = rng.random() < 0.5
    here = {thing.name: thing.noun for thing in scene.things}
    noun = rng.choice(list(here.values()) if present else [noun for noun in nouns() if noun.name not in here])
    phrase = rng.choice(_YES_NO).format(a_name=noun.with_article)
    return Question(kind="yes_no", text=phrase, answer="yes" if present else "no")


def caption_question(rng: random.Random, scene: Scene) -> Question | None:
    """Ask for a caption: the names with their counts, most frequent first, then in reading order."""
    counts = scene.counts()
    if len(counts) > 3:
        return None
    first = {thing.name: thing for thing in sorted(scene.things, key=lambda thing: thing.center[::-1], reverse=True)}
    ordered = sorted(first.values(), key=lambda thing: (-counts[thing.name], thing.center[::-1]))
    parts = [
        thing.noun.with_article if counts[thing.name] == 1 else f"{_NUMBERS[counts[thing.name]]} {thing.noun.plural}"
        for thing in ordered
    ]
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return Question(kind="caption", text=rng.choice(_CAPTION), answer=text[0].upper() + text[1:] + ".")


MAKERS: dict[str, Callable[[random.Random, Scene], Question | None]] = {
    "naming": name_question,
    "position": position_question,
    "counting": counting_question,
    "yes_no": yes_no_question,
    "caption": caption_question,
}


def sample_question(seed: int, split: str, index: int, kind: str) -> tuple[Scene, Question]:
    """One scene with one question of a kind, balanced over indices.

    Args:
        seed: names the whole data set.
        split: `train`, `val`, `test` or `unseen`.
        index: which sample, from 0.
        kind: one of `KINDS`.

    Raises:
        ConfigError: an unknown kind or split.
    """
    if kind not in MAKERS:
        raise ConfigError("question_kind_unknown", f"question kind {kind!r}; known kinds are {', '.join(KINDS)}")
    for attempt in range(100):
        number = (index * 100 + attempt) * len(KINDS) + KINDS.index(
            kind
        )  # every kind and attempt has scenes of its own
        scene = sample_scene(seed, split, number, _LAYOUT[kind])
        question = MAKERS[kind](stream(seed, split, number, "question"), scene)
        if question is not None:
            return scene, question
    raise AssertionError(f"no scene fits a {kind} question in 100 tries")


def sample_questions(seed: int, split: str, index: int, count: int) -> tuple[Scene, Sequence[Question]]:
    """One scene with `count` different questions, kinds in turn from a random start, for training."""
    scene = sample_scene(seed, split, index)
    rng = stream(seed, split, index, "questions")
    found: dict[tuple[str, str], Question] = {}
    # Outside a group the count is nearly always one; asking it there as often would teach a prior.
    weights = (3, 3, 4 if max(scene.counts().values()) > 1 else 0.3, 4, 1)
    for _ in range(20 * count):
        kind = rng.choices(KINDS, weights)[0]
        question = MAKERS[kind](rng, scene)
        if kind == "yes_no" and sum(other.kind == kind for other in found.values()) >= (count + 1) // 2:
            continue  # they never run out, and would crowd out the rest
        if question is not None:
            found.setdefault((question.kind, question.text if kind == "yes_no" else question.answer), question)
        if len(found) == count:
            break
    return scene, tuple(found.values())


def _main(scene: Scene) -> Thing:
    counts = scene.counts()
    return max(scene.things, key=lambda thing: counts[thing.name])


def _at(cell: str) -> str:
    return "in the center" if cell == "center" else f"on the {cell}" if cell in ("left", "right") else f"at the {cell}"
