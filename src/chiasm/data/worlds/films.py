"""Films: things that enter, move or stay, and leave, known by their times; frames are drawn when asked for.

A film is plain data. An hour of it costs what its list of parts costs; a frame costs what one picture costs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from chiasm.core.errors import ConfigError
from chiasm.data.worlds.backgrounds import Background
from chiasm.data.worlds.director import Director
from chiasm.data.worlds.sprites import COLOURS
from chiasm.data.worlds.stage import Actor, Point, Stage

if TYPE_CHECKING:
    from PIL import Image

FPS = 4.0
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing's time on the screen: from `start` to `stop` (seconds), moving from `actor.center` to `goal`."""

    actor: Actor
    start: float
    stop: float
    goal: Point

    def at(self, seconds: float) -> Actor:
        """The thing at a moment."""
        share = (seconds - self.start) / (self.stop - self.start)
        x, y = (a + share * (b - a) for a, b in zip(self.actor.center, self.goal, strict=True))
        return replace(self.actor, center=(x, y))


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneFilm:
    """A `Film` of parts on one background.

    Attributes:
        size: (width, height) in pixels.
        duration: seconds.
        fps: frames per second at which it changes.
        background: of the whole film.
        parts: in order of their start.
    """

    size: tuple[int, int]
    duration: float
    fps: float
    background: Background
    parts: tuple[Part, ...]

    @property
    def fingerprint(self) -> str:
        """Equal for equal films."""
        return sha256(f"film 1 {self!r}".encode()).hexdigest()

    def stage(self, seconds: float) -> Stage:
        """What stands where at a moment."""
        if not 0 <= seconds < self.duration:
            raise ConfigError("moment_outside", f"moment {seconds} s lies outside a film of {self.duration} s")
        moment = int(seconds * self.fps) / self.fps
        shown = tuple(part.at(moment) for part in self.parts if part.start <= moment < part.stop)
        return Stage(size=self.size, background=self.background, elements=shown)

    def frame(self, seconds: float) -> Image.Image:
        """The picture at a moment."""
        return self.stage(seconds).picture()

    def words(self) -> str:
        """The film in plain words."""
        said = (f"{part.start:.1f} to {part.stop:.1f} seconds: {part.actor.phrase}" for part in self.parts)
        return "a video, " + ", ".join(said)


def film(director: Director, count: int, seconds: float = 0.0) -> SceneFilm:
    """A film in which `count` different things appear one after the other, some together, with pauses between.

    Args:
        director: makes the choices.
        count: things.
        seconds: length; 0 = the world's, or 8 to 16.

    Returns:
        The film; its first thing never starts before 0 and its last ends before the film does.
    """
    rng, side = director.rng, director.world.size
    duration = seconds or director.world.seconds or float(rng.randint(8, 16))
    names, colours = director.coloured_names(min(count, 4))
    slot = duration / count
    parts: list[Part] = []
    for number in range(count):
        if number < len(names):
            noun, colour = names[number], colours[number] if director.coin() else None
        else:
            noun = director.another([part.actor.noun for part in parts[-2:]])
            colour = rng.choice([colour for colour in COLOURS if director.fits(noun, colour)])
        start = _frame(number * slot + rng.uniform(0.0, 0.3) * slot)
        stop = min(_frame(start + max(0.75, rng.uniform(0.5, 1.1) * slot)), _frame(duration - 1 / FPS))
        edge = side * rng.uniform(0.22, 0.36)
        begin, goal = _path(director, edge, number % 2 == 0, rng.choice(list(DIRECTIONS)))
        parts.append(Part(actor=director.actor(noun, begin, edge, colour), start=start, stop=stop, goal=goal))
    return SceneFilm(
        size=director.size, duration=duration, fps=FPS, background=director.background(), parts=tuple(parts)
    )


def _path(director: Director, edge: float, upper: bool, direction: str) -> tuple[Point, Point]:
    """A straight way across one half of the picture, so that two things that are there together don't meet."""
    side, rng = director.world.size, director.rng
    x, y = DIRECTIONS[direction]
    middle = (side / 2, side * (0.27 if upper else 0.73))
    reach = (side - edge) / 2 if x else 0.06 * side
    reach *= rng.uniform(0.8, 1.0)
    begin = middle[0] - x * reach, middle[1] - y * reach
    return (round(begin[0], 1), round(begin[1], 1)), (
        round(middle[0] + x * reach, 1),
        round(middle[1] + y * reach, 1),
    )


def _frame(seconds: float) -> float:
    """The nearest frame's time."""
    return round(seconds * FPS) / FPS
