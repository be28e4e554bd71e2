"""Boxes and points: where exactly something is, in original pixels, tight to what is visible.

The assistant's words hold the numbers as `[x0, y0, x1, y1]` and `[x, y]`, whole pixels; families that speak another
form (thousandths, percent, location tokens) write theirs from the annotations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from chiasm.core.messages import ImagePart, Part, TextPart
from chiasm.data.worlds import phrases
from chiasm.data.worlds.director import Director
from chiasm.data.worlds.stage import Actor, Stage, at
from chiasm.data.worlds.tasks.row import Row, Turn, ask

PLACES = 6  # most phrases that are asked about one picture
CLEARLY = 1.3  # how many times larger than the next one the largest is


def boxes(director: Director) -> Row:
    """The box of the one thing of a name, among others."""
    actors = director.actors(director.names(director.rng.randint(1, 3)), edges=())
    return _boxed("box", director, director.stage(actors), actors[0], actors[0].name)


def referring(director: Director) -> Row:
    """The box of one among several of a name, told apart by place, size or colour."""
    how = director.rng.choice(("place", "size", "colour"))
    count = director.rng.randint(2, 3)
    first, *rest = director.names(1 + director.rng.randint(0, 1))
    names = [first] * count + rest
    if how == "colour":
        colours = director.colours([first] * count)
        actors = director.actors(names, colours)
        return _boxed("referring", director, director.stage(actors), actors[0], actors[0].phrase)
    if how == "size":
        edges = _sizes(director, count) + director.edges(len(rest), 0.16, 0.2)
        actors = director.actors(names, edges=edges)
        chosen = director.rng.choice((0, count - 1))
        word = "largest" if chosen == 0 else "smallest"
        if count == 2:
            word = "larger" if chosen == 0 else "smaller"
        return _boxed("referring", director, director.stage(actors), actors[chosen], f"{word} {first.name}")
    actors = director.actors(names, edges=director.edges(len(names), 0.16, 0.3), apart=True)
    stage = director.stage(actors)
    chosen = director.rng.randrange(count)
    return _boxed("referring", director, stage, actors[chosen], f"{first.name} {at(stage.cell(actors[chosen]))}")


def points(director: Director) -> Row:
    """The middle of one thing, or of all things of a name."""
    count = director.rng.choice((1, 1, 2, 3, 4))
    first, *rest = director.names(1 + director.rng.randint(0, 2))
    actors = director.actors(names := [first] * count + rest, edges=director.edges(len(names), 0.15, 0.32))
    stage = director.stage(actors)
    if count == 1:
        question = director.say(phrases.POINT, phrase=first.name)
    else:
        question = director.say(phrases.POINT_ALL, names=first.plural)
    middles = sorted(_middle(stage.box(actor)) for actor in actors[:count])
    found = [{"point": middle, "phrase": first.name} for middle in middles]
    answer = ", ".join(f"[{x}, {y}]" for x, y in middles)
    marked = [{"box": list(stage.box(actor)), "phrase": first.name} for actor in actors[:count]]
    return ask("point", stage, question, answer, points=found, boxes=marked)


def places(director: Director) -> Row:
    """Several phrases about one picture, each with all its boxes: names, and what tells things of a name apart."""
    stage = director.rng.choice((boxes, referring, points))(director).turns[0].asked[0].source  # type: ignore[union-attr]
    assert isinstance(stage, Stage)
    found = named(stage)
    director.rng.shuffle(found)
    turns: list[Turn] = []
    marked: list[dict[str, object]] = []
    for phrase, actors in found[:PLACES]:
        its = sorted(stage.box(actor) for actor in actors)
        asked: tuple[Part, ...] = (TextPart(director.say(phrases.LOCATE, phrase=phrase)),)
        turns.append(Turn(asked if turns else (ImagePart(stage), *asked), ", ".join(str(list(box)) for box in its)))
        marked += [{"box": list(box), "phrase": phrase} for box in its]
    return Row(kind="places", turns=tuple(turns), truth={"boxes": marked})


def named(stage: Stage) -> list[tuple[str, list[Actor]]]:
    """Every phrase that names things of a picture beyond doubt, and the things."""
    found: list[tuple[str, list[Actor]]] = []
    for name in stage.counts():
        group = [actor for actor in stage.actors if actor.name == name]
        found.append((name, group))
        painted = Counter(actor.phrase for actor in group if actor.colour)
        found += [(actor.phrase, [actor]) for actor in group if painted[actor.phrase] == 1]
        if len(group) == 1:
            continue
        cells = Counter(stage.cell(actor) for actor in group)
        found += [(f"{name} {at(stage.cell(actor))}", [actor]) for actor in group if cells[stage.cell(actor)] == 1]
        falling = sorted(group, key=lambda actor: -actor.edge)
        large, small = ("larger", "smaller") if len(group) == 2 else ("largest", "smallest")
        if falling[0].edge > CLEARLY * falling[1].edge:
            found.append((f"{large} {name}", [falling[0]]))
        if falling[-2].edge > CLEARLY * falling[-1].edge:
            found.append((f"{small} {name}", [falling[-1]]))
    return found


def _boxed(kind: str, director: Director, stage: Stage, actor: Actor, phrase: str) -> Row:
    box = stage.box(actor)
    question = director.say(phrases.LOCATE, phrase=phrase)
    return ask(kind, stage, question, str(list(box)), boxes=[{"box": list(box), "phrase": phrase}])


def _middle(box: Sequence[int]) -> list[int]:
    return [round((box[0] + box[2]) / 2), round((box[1] + box[3]) / 2)]


def _sizes(director: Director, count: int) -> list[float]:
    """Falling sizes, each clearly smaller than the one before."""
    side, largest = director.world.size, 0.4
    return [side * largest * 0.62**number * director.rng.uniform(0.95, 1.05) for number in range(count)]
