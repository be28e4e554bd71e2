"""A picture and what it sounds like."""

from __future__ import annotations

from chiasm.core.messages import ImagePart
from chiasm.data.worlds.director import Director
from chiasm.data.worlds.sounds import SceneSound
from chiasm.data.worlds.stage import listed, sentence
from chiasm.data.worlds.tasks.row import Row, Turn


def sounds(director: Director) -> Row:
    """One or two things, and their calls; no question, and a caption that names them."""
    names = director.names(director.rng.randint(1, 2))
    stage = director.stage(director.actors(names, edges=director.edges(len(names), 0.3, 0.6)))
    sound = SceneSound(tuple(noun.name for noun in names), director.rng.getrandbits(32))
    caption = sentence(listed([noun.with_article for noun in names]))
    return Row(kind="sound", turns=(Turn((ImagePart(stage),), caption),), captions=(caption,), truth={"sound": sound})
