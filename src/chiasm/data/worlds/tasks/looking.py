"""One picture, one question: names, places, numbers, colours, sizes, comparisons, what is there and what isn't.

Every maker chooses the answer first and evenly, then builds a picture that has it, so that the question's words say
nothing about the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from chiasm.core.messages import ImagePart, TextPart
from chiasm.data.worlds import phrases
from chiasm.data.worlds.director import Director
from chiasm.data.worlds.sprites import COLOURS
from chiasm.data.worlds.stage import CELLS, NUMBERS, Actor, Stage, at, listed, sentence, with_article
from chiasm.data.worlds.tasks.row import Row, Turn, ask
from chiasm.data.worlds.vocabulary import Noun

YES_NO = ("yes", "no")
RELATIONS = ("left of", "right of", "above", "below")


def naming(director: Director) -> Row:
    """The name of the only thing, or of the one in a cell."""
    if director.coin():
        stage = director.stage(director.actors(director.names(1), edges=director.edges(1, 0.3, 0.7)))
        return ask("naming", stage, director.say(phrases.NAMING), stage.actors[0].name)
    actors = director.actors(director.names(director.rng.randint(2, 4)), apart=True)
    stage, chosen = director.stage(actors), director.rng.choice(actors)
    return ask("naming", stage, director.say(phrases.NAMING_AT, where=at(stage.cell(chosen))), chosen.name)


def position(director: Director) -> Row:
    """The cell that a thing stands in."""
    cell, names = director.rng.choice(CELLS), director.names(director.rng.randint(1, 3))
    stage = director.stage(director.actors(names, cells=(cell,)))
    return ask("position", stage, director.say(phrases.POSITION, name=names[0].name), cell, choices=CELLS)


def counting(director: Director) -> Row:
    """How many of one name there are, from 1 to 5, among up to two others."""
    count, others = director.rng.randint(1, 5), director.rng.randint(0, 2)
    first, *rest = director.names(1 + others)
    names = [first] * count + rest
    actors = director.actors(names, edges=director.edges(len(names), 0.15, 0.3))
    question = director.say(phrases.COUNTING, names=first.plural)
    return ask("counting", director.stage(actors), question, str(count), choices=tuple("12345"))


def attribute(director: Director) -> Row:
    """A thing's colour, the thing of a colour, or whether a thing is big or small."""
    which = director.rng.choice(("colour", "colour", "coloured", "size"))
    if which == "size":
        noun, big = director.names(1)[0], director.coin()
        low, high = (0.55, 0.8) if big else (0.14, 0.28)
        stage = director.stage(director.actors([noun], edges=director.edges(1, low, high)))
        question, sizes = director.say(phrases.SIZE, name=noun.name), ("big", "small")
        return ask("size", stage, question, sizes[not big], choices=sizes)
    names, colours = director.coloured_names(director.rng.randint(1 if which == "colour" else 2, 3))
    stage = director.stage(director.actors(names, colours))
    if which == "colour":
        question = director.say(phrases.COLOUR, name=names[0].name)
        return ask("colour", stage, question, colours[0], choices=tuple(COLOURS))
    return ask("coloured", stage, director.say(phrases.COLOURED, colour=colours[0]), names[0].name)


def comparison(director: Director) -> Row:
    """Which of two is larger or smaller, whether one is left of (right of, above, below) another, or more than it."""
    which = director.rng.choice(("larger", "relation", "more"))
    a, b = director.names(2)
    if director.coin():
        a, b = b, a
    if which == "larger":
        edges = director.edges(1, 0.42, 0.5) + director.edges(1, 0.16, 0.25)
        large, small = director.actors((a, b), edges=edges)
        word = director.rng.choice(("larger", "smaller"))
        mentioned = (a, b) if director.coin() else (b, a)
        question = director.say(phrases.LARGER, larger=word, a=mentioned[0].name, b=mentioned[1].name)
        right = (large if word == "larger" else small).name
        choices = tuple(noun.name for noun in mentioned)
        return ask("larger", director.stage((large, small)), question, right, choices=choices)
    if which == "relation":
        relation, true = director.rng.choice(RELATIONS), director.coin()
        stage = director.stage(related(director, (a, b), relation if true else opposite(relation)))
        question = director.say(phrases.RELATION, a=f"{a.name}", b=b.name, relation=relation)
        return ask("relation", stage, question, YES_NO[not true], choices=YES_NO)
    few, many = director.rng.choice(((1, 2), (1, 3), (2, 3), (1, 4), (2, 4)))
    true = director.coin()
    counts = (many, few) if true else (few, many)
    names = [a] * counts[0] + [b] * counts[1]
    stage = director.stage(director.actors(names, edges=director.edges(len(names), 0.14, 0.28)))
    question = director.say(phrases.MORE, a=a.plural, b=b.plural)
    return ask("more", stage, question, YES_NO[not true], choices=YES_NO)


def related(director: Director, names: Sequence[Noun], relation: str) -> list[Actor]:
    """Two things of which the first stands in a relation to the second, clearly and along one axis mostly."""
    along = 0 if relation in ("left of", "right of") else 1
    first_low = relation in ("left of", "above")
    other_way = director.rng.randrange(3)
    cells = []
    for first in (True, False):
        number = 0 if first == first_low else 2
        shift = min(2, max(0, other_way + director.rng.choice((-1, 0, 0, 1)))) if not first else other_way
        row, column = (shift, number) if along == 0 else (number, shift)
        cells.append(CELLS[3 * row + column])
    return director.actors(names, edges=director.edges(2, 0.18, 0.32), cells=cells)


def opposite(relation: str) -> str:
    """`left of` ↔ `right of`, `above` ↔ `below`."""
    return RELATIONS[RELATIONS.index(relation) ^ 1]


def yes_no(director: Director) -> Row:
    """Whether a name is there, with a colour or without; the wrong colour is a no."""
    present = director.coin()
    if director.coin():
        names = director.names(director.rng.randint(2, 4))
        shown = names[:-1] if present else names[1:]
        stage = director.stage(director.actors(shown))
        question = director.say(phrases.YES_NO, a_name=names[0].with_article)
        return ask("yes_no", stage, question, YES_NO[not present], choices=YES_NO)
    names, colours = director.coloured_names(director.rng.randint(2, 3))
    asked_colour = colours[0]
    asked = with_article(f"{asked_colour} {names[0].name}", names[0])
    if not present and director.fits(names[1], colours[0]):
        colours[:2] = colours[1], colours[0]  # the colour is there, on another thing
    if not present and not (colours[0] != asked_colour and director.fits(names[0], colours[0])):
        others = [c for c in COLOURS if c not in (asked_colour, *colours[1:]) and director.fits(names[0], c)]
        colours[0] = director.rng.choice(others)
    stage = director.stage(director.actors(names, colours))
    return ask("yes_no", stage, director.say(phrases.YES_NO, a_name=asked), YES_NO[not present], choices=YES_NO)


def negation(director: Director) -> Row:
    """Whether something is absent, which of three is absent, which of three lacks a colour."""
    which = director.rng.choice(("no", "missing", "not"))
    if which == "no":
        absent = director.coin()
        names = director.names(director.rng.randint(2, 4))
        stage = director.stage(director.actors(names[1:] if absent else names[:-1]))
        question = director.say(phrases.NO_NAME, name=names[0].name)
        return ask("absent", stage, question, YES_NO[not absent], choices=YES_NO)
    names = director.names(3)
    director.rng.shuffle(names)
    if which == "missing":
        stage, missing = director.stage(director.actors(names[:2])), names[2].name
        mentioned = [noun.name for noun in director.rng.sample(names, 3)]
        question = director.say(phrases.MISSING, a=mentioned[0], b=mentioned[1], c=mentioned[2])
        return ask("missing", stage, question, missing, choices=tuple(mentioned))
    while True:
        common, other = director.rng.sample(list(COLOURS), 2)
        if all(director.fits(noun, colour) for noun, colour in zip(names, (common, common, other), strict=True)):
            break
    stage = director.stage(director.actors(names, (common, common, other)))
    return ask("not_coloured", stage, director.say(phrases.NOT_COLOURED, colour=common), names[2].name)


def captions(director: Director) -> Row:
    """A bare picture with its caption; `captions` holds it and two other ways to say it."""
    stage, said = captioned(director)
    return Row(kind="caption", turns=(Turn((ImagePart(stage),), said[0]),), captions=said)


def describe(director: Director) -> Row:
    """A request for a caption."""
    stage, said = captioned(director)
    asked = (ImagePart(stage), TextPart(director.say(phrases.DESCRIBE)))
    return Row(kind="caption", turns=(Turn(asked, said[0]),), captions=said, truth={"answers": said})


def captioned(director: Director) -> tuple[Stage, tuple[str, ...]]:
    """A picture of one to three names, some in colour, some several times, and three captions."""
    names, colours = director.coloured_names(director.rng.choice((1, 2, 2, 3)))
    kept: list[str | None] = [colour if director.rng.random() < 0.6 else None for colour in colours]
    counts = [director.rng.choice((1, 1, 1, 2, 3)) if len(names) < 3 else 1 for _ in names]
    cast = [noun for noun, count in zip(names, counts, strict=True) for _ in range(count)]
    paint = [colour for colour, count in zip(kept, counts, strict=True) for _ in range(count)]
    actors = director.actors(cast, paint, director.edges(len(cast), 0.16, 0.38))
    stage = director.stage(actors)
    parts, places = [], []
    for noun, colour, count in zip(names, kept, counts, strict=True):
        group = [actor for actor in actors if actor.noun is noun]
        what = with_article(group[0].phrase, noun)
        if count > 1:
            what = " ".join(word for word in (NUMBERS[count], colour, noun.plural) if word)
        parts.append(what)
        places.append(f"{what} {at(stage.cell(group[0]))}" if count == 1 else what)
    return stage, (sentence(listed(parts)), sentence(listed(places)), f"A picture of {listed(parts)}.")
