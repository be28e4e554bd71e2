"""Tasks of pairs: hard negatives, and retrieval whose shortlist a matching head orders anew (Li et al. 2021, §3.2).

A pair is judged once, whatever condition or task asks for it; scores are rounded, so that what else was in a forward
pass can't be seen in them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chiasm.evaluation.controls import mean_picture, partners
from chiasm.evaluation.embedding import BLOCK, Vectors, captions_of, places_of, products, views
from chiasm.evaluation.metrics.retrieval import rerank
from chiasm.evaluation.predictor import picture_key
from chiasm.evaluation.protocol import Item

_DIGITS = 6
Asked = tuple[str, Any, str]  # a picture's key, the picture, a text


class Pairs:
    """Scores of pairs, kept in a journal: a matching head's probability, or the cosine of a model without one.

    Args:
        vectors: the model and its journal.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self.by = "match" if "match" in vectors.predictor.capabilities else "cosine"

    def scores(self, asked: Sequence[Asked]) -> list[float]:
        """One score a pair."""
        if self.by == "cosine":
            images = self.vectors.images([source for _, source, _ in asked], [key for key, _, _ in asked])
            texts = self.vectors.texts([text for *_, text in asked])
            return [round(float(score), _DIGITS) for score in (images.astype(np.float64) * texts).sum(1)]
        journal, names = self.vectors.journal, [_name(key, text) for key, _, text in asked]
        different = {name: pair for name, pair in zip(names, asked, strict=True) if name not in journal}
        left = list(different)
        for at in range(0, len(left), BLOCK):
            block = [different[name] for name in left[at : at + BLOCK]]
            found = self.vectors.predictor.match([source for _, source, _ in block], [text for *_, text in block])
            scores = (round(float(score), _DIGITS) for score in found)
            journal.add(dict(zip(left[at : at + BLOCK], scores, strict=True)))
        return [journal[name] for name in names]


def _name(key: str, text: str) -> str:
    return "pair " + hashlib.blake2b(f"{key}\n{text}".encode("utf-8", "replace"), digest_size=16).hexdigest()


def hard_negatives(texts: Sequence[str]) -> list[int]:
    """For each text another one, of those that say something else the one that shares most words with it.

    Args:
        texts: at least two different ones.

    Returns:
        One index a text: by the share of common words among all words of both; of equals, the next one in turn.
    """
    words = [frozenset(re.findall(r"\w+", text.lower())) for text in texts]
    found = []
    for at, own in enumerate(words):
        others = ((at + step) % len(texts) for step in range(1, len(texts)))
        different = (other for other in others if texts[other].lower() != texts[at].lower())
        found.append(max(different, key=lambda other: len(own & words[other]) / max(len(own | words[other]), 1)))
    return found


@dataclass(frozen=True, slots=True)
class HardNegatives:
    """Each picture chooses between its caption and the caption of another picture that says nearly the same."""

    def outputs(self, items: Sequence[Item], keys: Sequence[str], vectors: Vectors) -> dict[str, list[Any]]:
        """For each condition and item: the scores of its ``own`` caption and the ``other`` one, and what they are."""
        texts = [item.references[0] for item in items]
        others, pairs = hard_negatives(texts), Pairs(vectors)
        found = {}
        for condition, shown in _shown(items, keys).items():
            asked = [(key, source, texts[at]) for at, (key, source) in enumerate(shown)]
            wrong = [(key, source, texts[others[at]]) for at, (key, source) in enumerate(shown)]
            scores = zip(pairs.scores(asked), pairs.scores(wrong), strict=True)
            found[condition] = [{"own": own, "other": other, "by": pairs.by} for own, other in scores]
        return found


@dataclass(frozen=True, slots=True)
class Reranked:
    """Retrieval by embeddings, both ways, each query's best ordered anew by the matching head.

    Wrong pairs t of a picture i, from which the head learned, were drawn in proportion to exp(s·cos(i, t)). Its best
    log-odds are therefore log p(t|i) − log p(t) − s·cos(i, t) and a constant: `joint` puts back what was divided out.

    Attributes:
        shortlist: how many.
        joint: order by log-odds + s·cosine, with the model's own s; False = by the head alone, as published.
    """

    shortlist: int = 16
    joint: bool = False

    def outputs(self, items: Sequence[Item], keys: Sequence[str], vectors: Vectors) -> dict[str, list[Any]]:
        """As `embedding.Retrieval.outputs`."""
        captions, owner = captions_of(items)
        texts, pairs = vectors.texts(captions), Pairs(vectors)
        pictures = views(items, keys, vectors)
        scale = vectors.similarity_scale() if self.joint else 0.0
        found = {}
        for condition, shown in _shown(items, keys).items():
            scores = products(pictures[condition], texts)

            def of_picture(query: int, best: Sequence[int], shown: Any = shown, own: Any = scores) -> np.ndarray:
                heads = pairs.scores([(*shown[query], captions[caption]) for caption in best])
                return self._ordered(heads, scale * own[query, best])

            def of_text(query: int, best: Sequence[int], shown: Any = shown, own: Any = scores) -> np.ndarray:
                heads = pairs.scores([(*shown[picture], captions[query]) for picture in best])
                return self._ordered(heads, scale * own[best, query])

            found[condition] = places_of(
                rerank(scores, of_picture, self.shortlist), rerank(scores.T, of_text, self.shortlist), owner, len(items)
            )
        return found

    def _ordered(self, heads: Sequence[float], similarities: np.ndarray) -> np.ndarray:
        """What a shortlist is ordered by, from the head's probabilities."""
        if not self.joint:
            return np.asarray(heads)
        least = 0.5 * 10.0**-_DIGITS
        odds = np.clip(heads, least, 1 - least)
        return np.round(np.log(odds) - np.log1p(-odds) + similarities, _DIGITS)


@dataclass(frozen=True, slots=True)
class Judged:
    """Retrieval both ways by the scores of all pairs, for a model that has a matching head and no embeddings."""

    def outputs(self, items: Sequence[Item], keys: Sequence[str], vectors: Vectors) -> dict[str, list[Any]]:
        """As `embedding.Retrieval.outputs`."""
        captions, owner = captions_of(items)
        pairs, found = Pairs(vectors), {}
        for condition, shown in _shown(items, keys).items():
            asked = [(*picture, caption) for picture in shown for caption in captions]
            scores = np.array(pairs.scores(asked)).reshape(len(shown), len(captions))
            found[condition] = places_of(scores, scores.T, owner, len(items))
        return found


def _shown(items: Sequence[Item], keys: Sequence[str]) -> dict[str, list[tuple[str, Any]]]:
    """The picture of each item under each condition, with its key."""
    own = [(key, item.picture) for key, item in zip(keys, items, strict=True)]
    mean = mean_picture(list(dict(own).values()))
    blind = (f"mean {picture_key(mean)}", mean)
    return {"seen": own, "blind": [blind] * len(own), "swapped": [own[other] for other in partners(keys)]}
