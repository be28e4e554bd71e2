"""Tasks by embeddings: retrieval both ways, and zero-shot classification.

Vectors are computed in blocks of a fixed composition, whatever the batch size, and equal pictures are computed once:
so equal pictures have equal vectors to the last bit, and nothing else depends on how the work was cut.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chiasm.core.errors import ChiasmError
from chiasm.core.samples import Place
from chiasm.data.rows import Fault
from chiasm.evaluation.controls import mean_picture, media_key, partners, parts_of
from chiasm.evaluation.journal import Journal
from chiasm.evaluation.metrics.classification import ranks, zero_shot_head
from chiasm.evaluation.metrics.retrieval import first_ranks
from chiasm.evaluation.predictor import picture_key
from chiasm.evaluation.protocol import Item, Predictor

BLOCK = 32


class Vectors:
    """Embeddings of pictures and texts, kept in a journal.

    Args:
        predictor: the model.
        journal: where vectors are kept.
    """

    def __init__(self, predictor: Predictor, journal: Journal) -> None:
        self.predictor, self.journal = predictor, journal

    def images(self, sources: Sequence[Any], keys: Sequence[str]) -> np.ndarray:
        """(N, E) of pictures with their `picture_key`s."""
        different = dict(zip(keys, sources, strict=True))
        found = self._blocks(
            "image", list(different), lambda block: self.predictor.embed_images([different[k] for k in block])
        )
        return np.stack([found[key] for key in keys])

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, E) of texts."""
        found = self._blocks("text", list(dict.fromkeys(texts)), self.predictor.embed_texts)
        return np.stack([found[text] for text in texts])

    def similarity_scale(self) -> float:
        """What cosines are multiplied by in the model's softmax."""
        if "similarity scale" not in self.journal:
            self.journal.add({"similarity scale": self.predictor.similarity_scale()})
        return float(self.journal["similarity scale"])

    def _blocks(self, kind: str, names: list[str], embed: Any) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for at in range(0, len(names), BLOCK):
            block = names[at : at + BLOCK]
            # keyed by the whole block: a vector's last bits depend on its neighbours
            key = f"{kind} " + hashlib.blake2b("\n".join(block).encode("utf-8", "replace"), digest_size=16).hexdigest()
            if key not in self.journal:
                vectors = np.ascontiguousarray(embed(block), dtype="<f4")
                self.journal.add({key: [vectors.shape[1], base64.b64encode(vectors.tobytes()).decode()]})
            width, data = self.journal[key]
            found.update(zip(block, np.frombuffer(base64.b64decode(data), "<f4").reshape(-1, width), strict=True))
        return found


def readable(task: str, items: Sequence[Item]) -> tuple[list[Item], list[str], list[Fault]]:
    """Items whose picture is there, their pictures' keys, and a fault for each of the others."""
    usable, keys, faults = [], [], []
    for item in items:
        try:
            keys.append(media_key(parts_of(item.conversation)[-1]))
            usable.append(item)
        except ChiasmError as error:
            faults.append(Fault(Place(task, item.key), error.code, error.what))
    return usable, keys, faults


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Each picture looks for its captions, and each caption for its picture."""

    def outputs(self, items: Sequence[Item], keys: Sequence[str], vectors: Vectors) -> dict[str, list[Any]]:
        """For each condition and item: ``to_text`` (a place) and ``to_picture`` (a place for each caption)."""
        captions, owner = captions_of(items)
        texts = vectors.texts(captions)
        found = {}
        for condition, pictures in views(items, keys, vectors).items():
            scores = products(pictures, texts)
            found[condition] = places_of(scores, scores.T, owner, len(items))
        return found


def captions_of(items: Sequence[Item]) -> tuple[list[str], list[int]]:
    """Every caption, and the item that it belongs to."""
    owner = [at for at, item in enumerate(items) for _ in item.references]
    return [text for item in items for text in item.references], owner


def places_of(to_text: np.ndarray, to_picture: np.ndarray, owner: Sequence[int], count: int) -> list[dict[str, Any]]:
    """Where each query finds what belongs to it.

    Args:
        to_text: (items, captions) scores.
        to_picture: (captions, items) scores.
        owner: each caption's item.
        count: items.

    Returns:
        For each item ``to_text`` (a place) and ``to_picture`` (a place for each of its captions).
    """
    own: list[list[int]] = [[] for _ in range(count)]
    for caption, at in enumerate(owner):
        own[at].append(caption)
    texts, pictures = first_ranks(to_text, own), first_ranks(to_picture, [[at] for at in owner])
    return [{"to_text": int(texts[at]), "to_picture": [int(pictures[c]) for c in own[at]]} for at in range(count)]


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """Each picture is told from the names of all classes.

    Attributes:
        templates: prompts with ``{}`` for the name.
        labels: class names; empty = the names that occur among the items.
    """

    templates: tuple[str, ...]
    labels: tuple[str, ...] = ()

    def outputs(self, items: Sequence[Item], keys: Sequence[str], vectors: Vectors) -> dict[str, list[Any]]:
        """For each condition and item: the ``place`` of the true name and the ``best`` five names."""
        labels = self.labels or tuple(dict.fromkeys(item.references[0] for item in items))
        number = {label: at for at, label in enumerate(labels)}
        head = zero_shot_head(vectors.texts, labels, self.templates)
        true = [number[item.references[0]] for item in items]
        found = {}
        for condition, pictures in views(items, keys, vectors).items():
            scores = products(pictures, head)
            places, order = ranks(scores, true), np.argsort(-scores, axis=1, kind="stable")[:, :5]
            found[condition] = [
                {"place": int(place), "best": [labels[at] for at in best]}
                for place, best in zip(places, order, strict=True)
            ]
        return found


def products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) inner products; rounded, because equal rows may differ in the last bit of a matrix product."""
    return np.round(a.astype(np.float64) @ b.astype(np.float64).T, 9)


def views(items: Sequence[Item], keys: Sequence[str], vectors: Vectors) -> dict[str, np.ndarray]:
    """Picture vectors under each condition."""
    sources = [item.picture for item in items]
    own = vectors.images(sources, keys)
    mean = mean_picture(list(dict(zip(keys, sources, strict=True)).values()))
    blind = vectors.images([mean], [f"mean {picture_key(mean)}"])
    return {"seen": own, "blind": np.repeat(blind, len(items), 0), "swapped": own[partners(keys)]}
