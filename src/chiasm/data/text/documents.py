"""Short documents for a small language model: definitions, sentences, captions, and scenes told in words.

A scene's question is trained with the picture's plain words standing where the visual tokens will: the model learns to
read an answer off what stands before the question, which is what it will do with pictures. Only the training split is
told, so held-out wordings, pairs and words stay unknown to it, and no answer is told without the picture's words.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from chiasm.core.messages import ImagePart, TextPart, VideoPart
from chiasm.core.samples import Sample
from chiasm.data.packs import load_pack
from chiasm.data.text.quiz import drill, lookups, quiz
from chiasm.data.text.wordnet import Entry, entries
from chiasm.data.worlds.director import Director, World, invented
from chiasm.data.worlds.phrases import EVERY
from chiasm.data.worlds.stage import Actor, Stage, listed
from chiasm.data.worlds.tasks.reading import Chart
from chiasm.data.worlds.vocabulary import nouns
from chiasm.data.worlds.world import Scenes

# How often each task is told, beside the others.
TOLD = {
    "naming": 8, "position": 6, "counting": 8, "attribute": 8, "comparison": 6, "yes_no": 5, "negation": 4,
    "describe": 6, "captions": 4, "dialogue": 6, "few_shot": 6, "entailment": 2, "pairs": 2, "odd_one_out": 1,
    "text": 1, "charts": 1, "small": 1, "video": 1, "temporal": 1, "boxes": 1, "referring": 1, "points": 1,
}  # fmt: skip
_WHAT = ("What is {a}?", "What does {w} mean?", "Define {w}.")


@dataclass(frozen=True, slots=True)
class Speech:
    """A piece of a document.

    Attributes:
        role: whose turn it is; None = plain text.
        text: what is said.
        shown: stands before it, where visual tokens will.
        learned: whether the text is worth predicting, where it's plain text or an answer.
    """

    role: str | None
    text: str
    shown: str = ""
    learned: bool = True


Document = tuple[Speech, ...]


def documents(seed: int, counts: Mapping[str, int]) -> list[Document]:
    """All documents, in a fixed random order.

    Args:
        seed: of the order and of the scenes.
        counts: how many there are of each kind: ``definitions`` (synsets), ``scenes`` (samples of the generated world),
            ``quizzes`` (scenes with many questions each), ``lookups`` and ``checks`` (scenes with keys to look up, in
            the latter whether something is there, too), ``drills`` (scenes whose words are said again), ``bindings``
            (new names bound by examples).

    Raises:
        SourceError: a package that can't be fetched.
    """
    rng = random.Random(f"documents {seed}")
    plain = [entry for entry in entries() if _plain(entry)]
    found = [*_defined(rng, plain, counts["definitions"]), *_captioned(), *_told(seed, counts["scenes"])]
    found += [*_quizzed(seed, counts["quizzes"]), *_drilled(seed, counts["drills"])]
    found += [
        *_looked_up(seed, counts["lookups"], False),
        *_looked_up(seed, counts["checks"], True),
        *_bound(seed, plain, counts["bindings"]),
    ]
    rng.shuffle(found)
    return found


def _defined(rng: random.Random, plain: list[Entry], count: int) -> Iterator[Document]:
    for entry in rng.sample(plain, min(count, len(plain))):
        word, rest = entry.words[0], ""
        if len(entry.words) > 1:
            rest = f" Also: {', '.join(entry.words[1:4])}."
        if rng.random() < 0.35:
            article = f"an {word}" if word[0] in "aeiou" else f"a {word}"
            question = rng.choice(_WHAT).format(w=word, a=article if entry.part == "noun" else f'"{word}"')
            yield Speech("user", question), Speech("assistant", _sentence(entry.definition))
        else:
            yield (Speech(None, f"{word} ({entry.part}): {entry.definition}.{rest}"),)
        for example in entry.examples[:2]:
            yield (Speech(None, _sentence(example)),)


def _plain(entry: Entry) -> bool:
    """Everyday English: no proper names, no taxonomy."""
    word, text = entry.words[0], entry.definition
    return word.islower() and word.isascii() and text.isascii() and "genus" not in text and "family" not in text


def _captioned() -> Iterator[Document]:
    for pack in ("stamps", "openmoji"):
        for picture in load_pack(pack):
            if picture.split == "train":
                yield (Speech(None, f"A picture of {picture.label}."),)
                if picture.keywords:
                    yield (Speech(None, f"{picture.label}: {', '.join(picture.keywords)}."),)


def _told(seed: int, count: int) -> Iterator[Document]:
    world, total = World(seed=7_000_000 + seed), sum(TOLD.values())
    for task, share in TOLD.items():
        few_shots = [World(seed=world.seed, shots=shots) for shots in (1, 2)] if task == "few_shot" else [world]
        for number, own in enumerate(few_shots):
            rows = Scenes("train", [task], max(1, round(count * share / total / len(few_shots))), own)
            for sample in rows:
                yield told(sample, random.Random(f"told {seed} {number} {sample.key}"))


def _quizzed(seed: int, count: int) -> Iterator[Document]:
    world = World(seed=8_000_000 + seed)
    for index in range(count):
        director = Director(world, "train", index, "quiz")
        stage, asked = quiz(director)
        speeches: list[Speech] = []
        for question, answer in asked:
            shown = "" if speeches else in_other_words(stage, director.rng)
            speeches += [Speech("user", question, shown), Speech("assistant", answer)]
        yield tuple(speeches)


def _drilled(seed: int, count: int) -> Iterator[Document]:
    world = World(seed=9_000_000 + seed)
    for index in range(count):
        stage, question, answer = drill(Director(world, "train", index, "drill"))
        yield Speech("user", question, f"{stage.words()}."), Speech("assistant", answer)


def _looked_up(seed: int, count: int, presence: bool) -> Iterator[Document]:
    world = World(seed=(12_000_000 if presence else 10_000_000) + seed)
    for index in range(count):
        director = Director(world, "train", index, "lookup")
        stage, pairs = lookups(director, presence)
        speeches = [Speech(None, "Look up.", in_other_words(stage, director.rng), learned=False)]
        for key, value in pairs:
            speeches += [Speech(None, key, learned=False), Speech(None, f"{value}.")]
        yield tuple(speeches)


def _bound(seed: int, plain: list[Entry], count: int) -> Iterator[Document]:
    """Names of no meaning bound to things by examples; half of the things are of the world, half any noun."""
    known = {noun.name for noun in nouns()}
    words = [e.words[0] for e in plain if e.part == "noun" and e.words[0].isalpha() and e.words[0] not in known]
    world = World(seed=11_000_000 + seed)
    for index in range(count):
        director = Director(world, "train", index, "binding")
        rng = director.rng
        ways = rng.randint(2, 4)
        names = rng.sample(invented(False) if director.coin() else words, ways)
        things = [noun.name for noun in director.names(ways)] if director.coin() else rng.sample(words, ways)
        speeches: list[Speech] = []
        met: set[int] = set()
        for _ in range(rng.randint(ways + 1, 10)):
            which = rng.randrange(ways)
            rng.shuffle(order := list(names))
            asked = rng.choice(("What is this?", f"Is this {listed([f'a {name}' for name in order], 'or')}?"))
            shown = rng.choice(("a {} in the center.", "a picture of a {}.", "{}.")).format(things[which])
            speeches += [Speech("user", asked, shown), Speech("assistant", names[which], learned=which in met)]
            met.add(which)
        yield tuple(speeches)


def in_other_words(stage: Stage, rng: random.Random) -> str:
    """A picture's things in any order, in sentences or in the barest words: a picture will not be told in sentences.

    Args:
        stage: the picture; nothing is said of sizes.
        rng: chooses.
    """
    elements = list(stage.elements)
    rng.shuffle(elements)
    how = rng.random()
    if how < 0.6:
        words = replace(stage, elements=tuple(elements)).words()
        return f"{words}." if how < 0.45 else f"a picture of {words}."
    first, joint = rng.random() < 0.5, rng.choice((". ", ", ", " "))
    actors = [element for element in elements if isinstance(element, Actor)]
    said = [f"{stage.cell(a)}: {a.phrase}" if first else f"{a.phrase} {stage.cell(a)}" for a in actors]
    return f"{joint.join(said)}."


def told(sample: Sample, rng: random.Random) -> Document:
    """A sample with its pictures and films in words.

    Args:
        sample: of the generated world.
        rng: chooses among ways to say it.

    Returns:
        Its turns.
    """
    speeches = []
    boxed = sample.annotations["task"] in ("boxes", "referring", "points")
    sized = sample.annotations["kind"] in ("size", "larger") or rng.random() < 0.1
    for message in sample.conversation.messages:
        shown = []
        for part in message.parts:
            if isinstance(part, ImagePart):
                shown.append(_boxes(part.source) if boxed else _words(part.source, sized))
            elif isinstance(part, VideoPart):
                shown.append(part.source.words())
        said = "".join(part.text for part in message.parts if isinstance(part, TextPart))
        if len(shown) > 1:
            shown = [f"picture {number}: {words}" for number, words in enumerate(shown, 1)]
        elif shown and not boxed and rng.random() < 0.3:
            shown = [f"a picture of {shown[0]}"]
        speeches.append(Speech(message.role, said, ". ".join(shown) + "." if shown else ""))
    return tuple(speeches)


def _words(picture: Stage | Chart, sized: bool) -> str:
    return picture.words(sizes=sized) if isinstance(picture, Stage) else picture.words()


def _boxes(stage: Stage) -> str:
    return ", ".join(f"{actor.phrase} {list(stage.box(actor))}" for actor in stage.actors)


def _sentence(text: str) -> str:
    text = text.strip()
    return (text[:1].upper() + text[1:]).rstrip(".") + "."


def spellings() -> Iterator[str]:
    """Words that only tests use: a tokenizer must be able to spell them well, though no text was trained on them."""
    yield from invented(True)
    for noun in nouns():
        yield from (f"{noun.name} {noun.plural}",) * 20  # every name is one piece, if a word
    for phrases in EVERY.values():
        yield from phrases.held_out
