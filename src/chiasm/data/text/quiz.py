"""Many questions about one told scene, keys to look up in it, and its words said again in another order.

All teach a small language model more for each token that it reads than single questions do: nearly every token of a
drill's answer has to be copied from the words before it, which is what answering begins with.
"""

from __future__ import annotations

from chiasm.data.worlds import phrases
from chiasm.data.worlds.director import Director
from chiasm.data.worlds.stage import Actor, Stage, at, with_article
from chiasm.data.worlds.tasks import several
from chiasm.data.worlds.tasks.looking import RELATIONS, YES_NO
from chiasm.data.worlds.vocabulary import Noun

MOST = 10  # questions about a scene
CLEAR = 0.15  # of the picture's side: two things further apart than this stand in a clear relation


def drill(director: Director) -> tuple[Stage, str, str]:
    """A scene of different things, and its words again: as they are, or sorted by things, by places or by colours.

    Args:
        director: makes the choices.

    Returns:
        The stage, what to say of it, and the answer.
    """
    rng = director.rng
    names, colours = director.coloured_names(rng.randint(1, 6))
    actors = director.actors(names, colours, director.edges(len(names), 0.15, 0.3), apart=True)
    stage = director.stage(actors)
    how = rng.choice(("Say it again.", "List every thing.", "List every place.", "List every colour."))
    if how == "Say it again.":
        return stage, how, f"{stage.words()}."
    rng.shuffle(actors)
    cells = [at(stage.cell(actor)) for actor in actors]
    said = {
        "List every thing.": [f"{a.name}: {a.colour}, {cell}" for a, cell in zip(actors, cells, strict=True)],
        "List every place.": [f"{cell}: {a.name}, {a.colour}" for a, cell in zip(actors, cells, strict=True)],
        "List every colour.": [f"{a.colour}: {a.name}, {cell}" for a, cell in zip(actors, cells, strict=True)],
    }[how]
    return stage, how, ". ".join(said) + "."


def lookups(director: Director, presence: bool) -> tuple[Stage, list[tuple[str, str]]]:
    """A scene of one to five different things, and what is found under keys: of a thing, of a colour, of a place.

    Args:
        director: makes the choices.
        presence: half of the keys ask whether something is there, the others mostly for colours.

    Returns:
        The stage, and (key, value) pairs; a key may come again.
    """
    rng = director.rng
    names, colours = director.coloured_names(rng.randint(1, 5) + 1)
    actors = director.actors(names[:-1], colours[:-1], director.edges(len(names) - 1, 0.15, 0.3), apart=True)
    stage = director.stage(actors)
    found = []
    for _ in range(rng.randint(6, 14)):
        actor = rng.choice(actors)
        name, cell, colour = actor.name, stage.cell(actor), actor.colour or ""
        keys = [(f"{name} colour", colour), (f"{colour} thing", name), (f"{cell} thing", name), (f"{name} place", cell)]
        if presence:
            there = director.coin()
            absent = rng.choice(colours[:-1] if len(actors) > 1 else colours[-1:])
            wrong = f"{absent if absent != colour else colours[-1]} {name}"
            asked = (f"{actor.phrase if there else wrong} there", YES_NO[not there])
            plain = (f"{name if there else names[-1].name} there", YES_NO[not there])
            keys = [*keys, keys[0], keys[0], asked, plain, plain, plain]
        found.append(rng.choice(keys))
    return stage, found


def quiz(director: Director) -> tuple[Stage, list[tuple[str, str]]]:
    """A scene of one to four things, sometimes one of them twice, and up to `MOST` different questions with answers.

    Args:
        director: makes the choices; only its training split's phrases are to be told.

    Returns:
        The stage, and (question, answer) pairs.
    """
    rng = director.rng
    names, colours = director.coloured_names(rng.randint(2, 5))
    absent, names, colours = names[-1], names[:-1], colours[:-1]
    copies = rng.choice((0, 0, 0, 1, 2)) if len(names) > 1 else 0
    cast, paint = names + names[-1:] * copies, colours + colours[-1:] * copies
    actors = director.actors(cast, paint, director.edges(len(cast), 0.15, 0.34), apart=True)
    stage = director.stage(actors)
    makers: list[several.Said] = [
        several.say_name,
        several.say_place,
        several.say_colour,
        several.say_count,
        several.say_whether,
        _say_coloured,
        _say_coloured_there,
        _say_not_there,
    ]
    if len(names) > 1:
        makers.append(_say_relation)
    found: dict[str, str] = {}
    for _ in range(2 * MOST):
        if len(found) == MOST:
            break
        question, answer = rng.choice(makers)(director, stage, actors, absent)
        found.setdefault(question, answer)
    return stage, list(found.items())


def _say_coloured(director: Director, stage: Stage, actors: list[Actor], absent: Noun) -> tuple[str, str]:
    actor = director.rng.choice(actors)
    return director.say(phrases.COLOURED, colour=actor.colour or ""), actor.name


def _say_coloured_there(director: Director, stage: Stage, actors: list[Actor], absent: Noun) -> tuple[str, str]:
    present, actor = director.coin(), director.rng.choice(actors)
    others = sorted({other.colour or "" for other in actors} - {actor.colour})
    colour = actor.colour if present or not others else director.rng.choice(others)
    noun = actor.noun if present or others else absent
    asked = with_article(f"{colour} {noun.name}", noun)
    return director.say(phrases.YES_NO, a_name=asked), YES_NO[not present]


def _say_not_there(director: Director, stage: Stage, actors: list[Actor], absent: Noun) -> tuple[str, str]:
    missing = director.coin()
    noun = absent if missing else director.rng.choice(actors).noun
    return director.say(phrases.NO_NAME, name=noun.name), YES_NO[not missing]


def _say_relation(director: Director, stage: Stage, actors: list[Actor], absent: Noun) -> tuple[str, str]:
    single = [actor for actor in actors if stage.counts()[actor.name] == 1]
    if len(single) < 2:
        return several.say_name(director, stage, actors, absent)
    a, b = director.rng.sample(single, 2)
    across, down = ((b.center[axis] - a.center[axis]) / stage.size[axis] for axis in (0, 1))
    true = [relation for relation, by in zip(RELATIONS, (across, -across, down, -down), strict=True) if by > CLEAR]
    if not true:
        return several.say_place(director, stage, [a], absent)
    relation, holds = director.rng.choice(true), director.coin()
    said = relation if holds else RELATIONS[RELATIONS.index(relation) ^ 1]
    return director.say(phrases.RELATION, a=a.name, b=b.name, relation=said), YES_NO[not holds]
