"""The data sets that need no file of the user's: the generated world and three packs of real pictures.

`data.named` opens them by name: `scenes:test:counting,yes_no?size=128`, `stamps:train`. Bare words are a split and
tasks, the others are settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from chiasm.core.errors import ConfigError
from chiasm.core.samples import Dataset
from chiasm.data.pack_dataset import PackDataset
from chiasm.data.worlds.director import World
from chiasm.data.worlds.vocabulary import SPLITS
from chiasm.data.worlds.world import Scenes

DEFAULTS = World()


def scenes(
    words: Sequence[str] = (),
    *,
    split: str = "train",
    tasks: Sequence[str] = (),
    count: int | None = None,
    seed: int = DEFAULTS.seed,
    size: int = DEFAULTS.size,
    nouns: int = DEFAULTS.nouns,
    art: str = DEFAULTS.art,
    shots: int = DEFAULTS.shots,
    ways: int = DEFAULTS.ways,
    seconds: float = DEFAULTS.seconds,
) -> Dataset:
    """The generated world; see `Scenes` and `World`.

    Args:
        words: a split and names of tasks, in any order.
        split, tasks, count: see `Scenes`; words go over them.
        seed, size, nouns, art, shots, ways, seconds: see `World`.

    Raises:
        ConfigError: an unknown split, task or value.
    """
    world = World(seed=seed, size=size, nouns=nouns, art=art, shots=shots, ways=ways, seconds=seconds)
    named = [word for word in words if word in SPLITS]
    asked = [word for word in words if word not in SPLITS]
    return Scenes(named[0] if named else split, asked or tuple(tasks), count, world)


def _pack(pack: str, words: Sequence[str] = (), *, split: str = "train", count: int | None = None) -> Dataset:
    """A pack of pictures with captions; see `PackDataset`."""
    if len(words) > 1:
        raise ConfigError("split_unknown", f"{pack} has splits and no tasks; {len(words)} words were given, at most 1")
    return PackDataset(pack, words[0] if words else split, count)


stamps: Callable[..., Dataset] = partial(_pack, "stamps")
clipart: Callable[..., Dataset] = partial(_pack, "clipart")
openmoji: Callable[..., Dataset] = partial(_pack, "openmoji")
noto: Callable[..., Dataset] = partial(_pack, "noto")
noto_v1: Callable[..., Dataset] = partial(_pack, "noto-v1")
twemoji: Callable[..., Dataset] = partial(_pack, "twemoji")
fluent_emoji_flat: Callable[..., Dataset] = partial(_pack, "fluent-emoji-flat")
emojione: Callable[..., Dataset] = partial(_pack, "emojione")
emojione_v1: Callable[..., Dataset] = partial(_pack, "emojione-v1")
