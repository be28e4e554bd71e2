"""Films: what comes first or last, in which order, how many, which way; and when something is there."""

from __future__ import annotations

from chiasm.data.worlds import phrases
from chiasm.data.worlds.director import Director
from chiasm.data.worlds.films import DIRECTIONS, FPS, SceneFilm, film
from chiasm.data.worlds.stage import Actor
from chiasm.data.worlds.tasks.looking import YES_NO
from chiasm.data.worlds.tasks.row import Row, watch

PER_PART = 3.0  # seconds of a long film for each thing in it


def video(director: Director) -> Row:
    """A question about what happens in a short film."""
    which = director.rng.choice(("first", "before", "count", "direction"))
    if which == "count":
        count = director.rng.randint(1, 4)
        return _watch("video_count", film(director, count), director.say(phrases.APPEARING), str(count))
    shot = film(director, director.rng.randint(2, 3))
    if which == "first":
        last = director.coin()
        question = director.say(phrases.FIRST, first="last" if last else "first")
        return _watch("video_order", shot, question, shot.parts[-1 if last else 0].actor.name)
    if which == "before":
        true = director.coin()
        pair = (shot.parts[0], shot.parts[1]) if true else (shot.parts[1], shot.parts[0])
        question = director.say(phrases.BEFORE, a=pair[0].actor.name, b=pair[1].actor.name)
        return _watch("video_before", shot, question, YES_NO[not true], choices=YES_NO)
    part = director.rng.choice(shot.parts)
    along = (part.goal[0] - part.actor.center[0], part.goal[1] - part.actor.center[1])
    way = max(DIRECTIONS, key=lambda name: DIRECTIONS[name][0] * along[0] + DIRECTIONS[name][1] * along[1])
    question = director.say(phrases.MOVING, name=part.actor.name)
    return _watch("video_direction", shot, question, way, choices=tuple(DIRECTIONS))


def temporal(director: Director) -> Row:
    """When a thing is in the film: spans in seconds; the film may be an hour long."""
    seconds = director.world.seconds
    count = max(3, int(seconds / PER_PART)) if seconds > 16 else 3
    shot = film(director, count)
    phrase = _phrase(director, shot)
    spans = [[part.start, part.stop] for part in shot.parts if _named(part.actor, phrase)]
    answer = ", ".join(f"{start:.1f} - {stop:.1f}" for start, stop in spans)
    question = director.say(phrases.WHEN, phrase=phrase)
    return _watch("temporal", shot, question, answer, spans=spans, phrase=phrase, duration=shot.duration)


def _phrase(director: Director, shot: SceneFilm) -> str:
    """Words for something that is there as rarely as anything is."""
    phrases_ = [part.actor.phrase for part in shot.parts]
    rare = min(phrases_.count(phrase) for phrase in phrases_)
    return director.rng.choice([phrase for phrase in phrases_ if phrases_.count(phrase) == rare])


def _named(actor: Actor, phrase: str) -> bool:
    return phrase in (actor.phrase, actor.name)


def _watch(kind: str, shot: SceneFilm, question: str, answer: str, **truth: object) -> Row:
    return watch(kind, shot, question, answer, FPS, **truth)
