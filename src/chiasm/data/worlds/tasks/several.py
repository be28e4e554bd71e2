"""Several pictures or turns: pairs with a statement, the odd one out, entailment, dialogues, names from examples."""

from __future__ import annotations

from collections.abc import Callable

from chiasm.core.errors import ConfigError
from chiasm.core.messages import ImagePart, Part, TextPart
from chiasm.data.worlds import phrases
from chiasm.data.worlds.director import Director, invented
from chiasm.data.worlds.sprites import COLOURS
from chiasm.data.worlds.stage import NUMBERS, Actor, Cover, Element, Stage, at, with_article
from chiasm.data.worlds.tasks.looking import YES_NO
from chiasm.data.worlds.tasks.row import Row, Turn, ask
from chiasm.data.worlds.vocabulary import Noun

TRUTH = ("true", "false")
ENTAILMENT = ("entailment", "neutral", "contradiction")
POSES = 12  # pictures of a thing in `binding`
ORDINALS = ("first", "second", "third", "fourth")


def pairs(director: Director) -> Row:
    """Two pictures and a statement that is true or false of both together, as in NLVR2."""
    true = director.coin()
    statement, left, right = director.rng.choice((_both, _total, _either, _more_on_one_side))(director, true)
    stages = [director.stage(director.actors(names, edges=_small(director, names))) for names in (left, right)]
    question = director.say(phrases.PAIR, statement=statement)
    return ask("pair", stages, question, TRUTH[not true], choices=TRUTH, label=true, statement=statement)


def _small(director: Director, names: list[Noun]) -> list[float]:
    return director.edges(len(names), 0.17, 0.34)


def _both(director: Director, true: bool) -> tuple[str, list[Noun], list[Noun]]:
    asked, b, c = director.names(3)
    pictures = [[asked, b], [asked, c]]
    if not true:
        pictures[director.rng.randrange(2)].remove(asked)
    return f"Both pictures show {asked.with_article}.", pictures[0], pictures[1]


def _either(director: Director, true: bool) -> tuple[str, list[Noun], list[Noun]]:
    asked, b, c = director.names(3)
    pictures = [[b], [c]]
    if true:
        pictures[director.rng.randrange(2)].append(asked)
    else:  # in none, or in both: one alone is what the statement says
        for picture in pictures if director.coin() else ():
            picture.append(asked)
    return f"Exactly one of the pictures shows {asked.with_article}.", pictures[0], pictures[1]


def _total(director: Director, true: bool) -> tuple[str, list[Noun], list[Noun]]:
    asked, other = director.names(2)
    said, rng = director.rng.randint(2, 6), director.rng
    count = said if true else rng.choice([number for number in (said - 1, said + 1) if 2 <= number <= 6])
    first = rng.randint(max(0, count - 3), min(3, count))
    left, right = [asked] * first, [asked] * (count - first)
    for picture in (left, right):
        if not picture:
            picture.append(other)
    return f"There are {NUMBERS[said]} {asked.plural} in total.", left, right


def _more_on_one_side(director: Director, true: bool) -> tuple[str, list[Noun], list[Noun]]:
    asked = director.names(1)[0]
    few, many = director.rng.choice(((1, 2), (1, 3), (2, 4), (1, 4)))
    said_left = director.coin()
    left, right = (many, few) if said_left == true else (few, many)
    one, other = ("left", "right") if said_left else ("right", "left")
    return f"The {one} picture has more {asked.plural} than the {other} one.", [asked] * left, [asked] * right


def odd_one_out(director: Director) -> Row:
    """Three or four pictures, all but one alike in name, in colour, or in number."""
    count, rng = director.rng.randint(3, 4), director.rng
    odd, how = rng.randrange(count), rng.choice(("name", "colour", "number"))
    a, b = director.names(2)
    stages = []
    if how == "colour":
        while True:
            common, other = rng.sample(list(COLOURS), 2)
            if director.fits(a, common) and director.fits(a, other):
                break
    few, many = rng.sample((1, 2, 3), 2)
    for number in range(count):
        different = number == odd
        names = [b if different and how == "name" else a]
        if how == "number":
            names *= many if different else few
        paint = (other if different else common,) if how == "colour" else ()
        stages.append(director.stage(director.actors(names, paint, director.edges(len(names), 0.25, 0.6))))
    choices = ORDINALS[:count]
    return ask("odd_one_out", stages, director.say(phrases.ODD), choices[odd], choices=choices, label=odd)


def entailment(director: Director) -> Row:
    """A picture and a statement that it shows to be true, leaves open (something is hidden), or shows to be false."""
    verdict = director.rng.choice(ENTAILMENT)
    names, colours = director.coloured_names(3)
    asked, others = names[0], names[1:]
    coloured = director.coin()
    statement = f"There is {asked.with_article}."
    if coloured:
        statement = f"There is {with_article(f'{colours[0]} {asked.name}', asked)}."
    hidden = verdict == "neutral" or (verdict == "entailment" and director.coin())
    shown, paint = ([asked, others[0]], colours[:2]) if verdict == "entailment" else (others, colours[1:])
    edges = director.edges(len(shown) + hidden, 0.2, 0.38)
    places, shrink = director.places(edges)
    elements: list[Element] = [
        director.actor(noun, place, edge * shrink, colour if coloured else None)
        for noun, place, edge, colour in zip(shown, places, edges, paint, strict=False)
    ]
    if hidden:
        elements.append(Cover(center=places[-1], edge=round(edges[-1] * shrink)))
    question = director.say(phrases.ENTAIL, statement=statement)
    stage = director.stage(elements)
    label = ENTAILMENT.index(verdict)
    return ask("entailment", stage, question, verdict, choices=ENTAILMENT, label=label, statement=statement)


def dialogue(director: Director) -> Row:
    """Three to five questions about one picture, each with its answer."""
    names, colours = director.coloured_names(director.rng.randint(3, 4))
    absent, names, colours = names[-1], names[:-1], colours[:-1]
    twice = director.rng.random() < 0.4
    cast, paint = (names + names[-1:], colours + colours[-1:]) if twice else (names, colours)
    actors = director.actors(cast, paint, director.edges(len(cast), 0.17, 0.34), apart=True)
    stage = director.stage(actors)
    makers = director.rng.sample((say_name, say_place, say_colour, say_count, say_whether), 4)
    turns: list[Turn] = []
    for make in makers[: director.rng.randint(3, 4)]:
        question, answer = make(director, stage, actors, absent)
        parts: tuple[Part, ...] = (TextPart(question),)
        turns.append(Turn((ImagePart(stage), *parts) if not turns else parts, answer))
    return Row(kind="dialogue", turns=tuple(turns))


Said = Callable[[Director, Stage, list[Actor], Noun], tuple[str, str]]


def _single(director: Director, stage: Stage, actors: list[Actor]) -> Actor:
    counts = stage.counts()
    return director.rng.choice([actor for actor in actors if counts[actor.name] == 1])


def say_name(director: Director, stage: Stage, actors: list[Actor], absent: Noun) -> tuple[str, str]:
    actor = director.rng.choice(actors)
    return director.say(phrases.NAMING_AT, where=at(stage.cell(actor))), actor.name


def say_place(director: Director, stage: Stage, actors: list[Actor], absent: Noun) -> tuple[str, str]:
    actor = _single(director, stage, actors)
    return director.say(phrases.POSITION, name=actor.name), stage.cell(actor)


def say_colour(director: Director, stage: Stage, actors: list[Actor], absent: Noun) -> tuple[str, str]:
    actor = _single(director, stage, actors)
    assert actor.colour is not None
    return director.say(phrases.COLOUR, name=actor.name), actor.colour


def say_count(director: Director, stage: Stage, actors: list[Actor], absent: Noun) -> tuple[str, str]:
    noun = director.rng.choice([actor.noun for actor in actors])
    return director.say(phrases.COUNTING, names=noun.plural), str(stage.counts()[noun.name])


def say_whether(director: Director, stage: Stage, actors: list[Actor], absent: Noun) -> tuple[str, str]:
    present = director.coin()
    noun = director.rng.choice(actors).noun if present else absent
    return director.say(phrases.YES_NO, a_name=noun.with_article), YES_NO[not present]


def few_shot(director: Director) -> Row:
    """New names bound to things by examples, then one of them again: in tests, things that no other task shows.

    The examples are turns before the question; `truth` says how many there are, so that a reader can drop some.
    """
    return _episode(director, "few_shot", lambda thing: director)


def binding(director: Director) -> Row:
    """`few_shot` with `POSES` pictures of each thing in all: few enough to keep what a frozen tower says of each.

    A picture comes after its question, so that it stands next to its answer.
    """

    def pose(thing: Noun) -> Director:
        return Director(director.world, director.split, director.rng.randrange(POSES), f"pose of {thing.name}")

    return _episode(director, "binding", pose, picture_last=True)


def _new(director: Director) -> list[Noun]:
    """Things outside the world that the split has pictures of."""
    new = [noun for noun in director.new if noun.pictures(director.split)]
    if len(new) < director.world.ways:
        what = f"nouns is {director.world.nouns}, which leaves {director.split} {len(new)} new things"
        raise ConfigError("option_out_of_range", f"{what} of the {director.world.ways} in an episode")
    return new


def _episode(director: Director, kind: str, posing: Callable[[Noun], Director], *, picture_last: bool = False) -> Row:
    """Examples and a question; `posing` says who makes the choices of a thing's picture."""
    rng, world = director.rng, director.world
    novel = director.split in ("test", "unseen")
    things = rng.sample(_new(director), world.ways) if novel else director.names(world.ways)
    names = rng.sample(invented(novel), world.ways)
    order = [number for number in range(world.ways) for _ in range(world.shots)]
    rng.shuffle(order)
    asked = rng.randrange(world.ways)
    turns = []
    for number in (*order, asked):
        pose = posing(things[number])
        picture = pose.rng.choice(things[number].pictures(director.split))
        center, edge = (
            (world.size * pose.rng.uniform(0.4, 0.6), world.size * pose.rng.uniform(0.4, 0.6)),
            0.5 * world.size,
        )
        actor = pose.actor(things[number], center, edge * pose.rng.uniform(0.8, 1.2), None, picture)
        said = rng.sample(names, 2) if world.ways == 2 else names
        question = director.say(phrases.NAMED, a=", a ".join(said[:-1]), b=said[-1])
        asked_of: tuple[Part, ...] = (ImagePart(pose.stage([actor])), TextPart(question))
        turns.append(Turn(asked_of[::-1] if picture_last else asked_of, names[number]))
    truth = {"choices": tuple(names), "shots": len(order), "things": tuple(thing.name for thing in things)}
    return Row(kind=kind, turns=tuple(turns), truth=truth)
