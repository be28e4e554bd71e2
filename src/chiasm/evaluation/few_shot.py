"""Examples in the prompt: drawn by chance, or the nearest by picture (RICES; Yang et al. 2022, Alayrac et al. 2022).

Shots are whole turns before the question, the most similar one last, as Flamingo's evaluation has it. `curve` makes the
tasks of a few-shot curve: the same items at 0, 4, 8, 16 and 32 shots.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from chiasm.core.errors import ConfigError
from chiasm.core.messages import Conversation, Message, TextPart
from chiasm.evaluation.protocol import Item, Items, Predictor, Source, Task

SHOTS = (0, 4, 8, 16, 32)
Select = Callable[[Item, int], Sequence[Item]]


def with_shots(item: Item, shots: Sequence[Item]) -> Item:
    """An item whose conversation begins with answered examples."""
    turns: list[Message] = []
    for shot in shots:
        turns += [*shot.conversation.messages, Message("assistant", (TextPart(shot.references[0]),))]
    return replace(item, conversation=Conversation((*turns, *item.conversation.messages)))


def random_shots(pool: Sequence[Item], seed: int = 0) -> Select:
    """Examples drawn by chance for each item, never the item itself or another question about its picture.

    Args:
        pool: answered items, apart from those that are asked.
        seed: of the draws; an item's examples depend on its key and on nothing else.
    """

    def select(item: Item, count: int) -> list[Item]:
        rest = _others(pool, item, count)
        return random.Random(f"{seed} {item.key}").sample(rest, count)

    return select


def rices_shots(pool: Sequence[Item], pool_vectors: np.ndarray, vector: Callable[[Item], np.ndarray]) -> Select:
    """The examples whose pictures are most like the item's, the most similar one last.

    Args:
        pool: answered items, apart from those that are asked.
        pool_vectors: (N, E) of their pictures, L2-normalised.
        vector: (E,) of an item's picture.
    """
    where = {shot.key: at for at, shot in enumerate(pool)}

    def select(item: Item, count: int) -> list[Item]:
        rest = _others(pool, item, count)
        scores = np.round(pool_vectors[[where[shot.key] for shot in rest]] @ vector(item), 6)
        nearest = np.argsort(-scores, kind="stable")[:count]
        return [rest[at] for at in nearest[::-1]]

    return select


def curve(task: Task, select: Select, shots: Sequence[int] = SHOTS) -> list[Task]:
    """One task for each number of shots, called ``NAME@K``; its items are the task's own."""

    def at(count: int) -> Task:
        def load(source: Source) -> Items:
            found = task.load(source)
            items = [with_shots(item, select(item, count) if count else ()) for item in found.items]
            return replace(found, items=items, fingerprint=f"{found.fingerprint} shots {count}")

        return replace(task, name=f"{task.name}@{count}", about=f"{task.about}; {count} examples", load=load)

    return [at(count) for count in shots]


def nearest_by(predictor: Predictor, pool: Sequence[Item]) -> Select:
    """`rices_shots` by the picture embeddings of a model, each computed by itself and once."""
    vectors = np.concatenate([predictor.embed_images([shot.picture]) for shot in pool])
    return rices_shots(pool, vectors, lambda item: predictor.embed_images([item.picture])[0])


def _others(pool: Sequence[Item], item: Item, count: int) -> list[Item]:
    rest = [shot for shot in pool if shot.key != item.key and (not item.group or shot.group != item.group)]
    if len(rest) < count:
        raise ConfigError("shots_missing", f"{count} examples asked for, the pool has {len(rest)} for {item.key}")
    return rest
