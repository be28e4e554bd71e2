"""Caption scores: BLEU (Papineni et al. 2002), ROUGE-L (Lin 2004), CIDEr-D (Vedantam et al. 2015), CHAIR.

As the COCO caption evaluation computes them (Chen et al. 2015), on Penn Treebank tokens (`ptb.tokenize`): BLEU over
the corpus with the closest reference's length; ROUGE-L with β = 1.2 from the best precision and the best recall over
the references; CIDEr-D with clipped counts, a Gaussian length penalty of σ = 6 (lengths in bigrams), document
frequencies from the references of the same corpus, times 10.

METEOR and SPICE need WordNet tables and a parser in Java and are not computed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from chiasm.evaluation.metrics.ptb import tokenize

_N = 4
Grams = Counter[tuple[str, ...]]


def tokenized(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Candidates and their references as Penn Treebank tokens, each in one pass.

    Args:
        candidates: one caption a picture.
        references: the true captions of each picture, at least one.

    Returns:
        The same texts, tokenized.
    """
    assert len(candidates) == len(references)
    flat = iter(tokenize([text for texts in references for text in texts]))
    return tokenize(candidates), [[next(flat) for _ in texts] for texts in references]


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[float], list[list[float]]]:
    """BLEU-1 to BLEU-4.

    Args:
        candidates: (N) tokenized captions.
        references: (N) tokenized references of each.

    Returns:
        Of the corpus (4), and of each caption by itself (N, 4); an empty corpus scores 0.
    """
    parts = [_bleu_parts(candidate, texts) for candidate, texts in zip(candidates, references, strict=True)]
    total = [sum(column) for column in zip(*parts, strict=True)] if parts else [0] * (2 + 2 * _N)
    return _bleu_score(total), [_bleu_score(part) for part in parts]


def _bleu_parts(candidate: str, references: Sequence[str]) -> list[int]:
    """Length, closest reference's length, n-grams there, n-grams right."""
    words = candidate.split()
    found = _grams(words)
    most: Grams = Counter()
    for reference in references:
        most |= _grams(reference.split())
    closest = min((abs(len(r.split()) - len(words)), len(r.split())) for r in references)[1]
    there = [max(0, len(words) - n) for n in range(_N)]
    right = [sum(min(count, most[g]) for g, count in found.items() if len(g) == n + 1) for n in range(_N)]
    return [len(words), closest, *there, *right]


def _bleu_score(parts: Sequence[int]) -> list[float]:
    # the reference's way around divisions by zero; it moves a score by less than 1e-8
    small, tiny = 1e-9, 1e-15
    length, closest, counts = parts[0], parts[1], parts[2:]
    product, scores = 1.0, []
    for n in range(_N):
        product *= (counts[_N + n] + tiny) / (counts[n] + small)
        scores.append(product ** (1 / (n + 1)))
    ratio = (length + tiny) / (closest + small)
    return [score * math.exp(1 - 1 / ratio) for score in scores] if ratio < 1 else scores


def rouge_l(candidate: str, references: Sequence[str]) -> float:
    """ROUGE-L of one tokenized caption, in 0..1; an empty one against an empty reference is a match, as there."""
    words = candidate.split(" ")
    lengths = [(_common(reference.split(" "), words), len(reference.split(" "))) for reference in references]
    precision = max(common / len(words) for common, _ in lengths)
    recall = max(common / length for common, length in lengths)
    if precision == 0 or recall == 0:
        return 0.0
    beta = 1.2**2
    return (1 + beta) * precision * recall / (recall + beta * precision)


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for j, other in enumerate(b):
            above = row[j + 1]
            row[j + 1] = before + 1 if word == other else max(above, row[j])
            before = above
    return row[-1]


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each tokenized caption; the corpus's score is their mean (papers print it times 100).

    Args:
        candidates: (N) tokenized captions.
        references: (N) tokenized references; their n-grams give the document frequencies.

    Returns:
        (N) scores, 0 to 10. A corpus of one picture scores 0: every n-gram is in every document.
    """
    cooked = [[_grams(text.split()) for text in texts] for texts in references]
    frequency = Counter(gram for texts in cooked for gram in set().union(*texts))
    log_count = math.log(len(references)) if references else 0.0
    weights = {gram: log_count - math.log(count) for gram, count in frequency.items()}

    def vector(grams: Grams) -> tuple[list[dict[tuple[str, ...], float]], list[float], int]:
        rows: list[dict[tuple[str, ...], float]] = [{} for _ in range(_N)]
        for gram, count in grams.items():
            rows[len(gram) - 1][gram] = count * weights.get(gram, log_count)
        norms = [math.sqrt(sum(value * value for value in row.values())) for row in rows]
        return rows, norms, sum(count for gram, count in grams.items() if len(gram) == 2)

    scores = []
    for candidate, texts in zip(candidates, cooked, strict=True):
        own = vector(_grams(candidate.split()))
        total = sum(_cosine(own, vector(text)) for text in texts)
        scores.append(10 * total / _N / len(texts))
    return scores


def _cosine(a: tuple, b: tuple) -> float:
    """Clipped cosines of 1- to 4-grams, summed, times the length penalty."""
    total = 0.0
    for own, other, norm, other_norm in zip(a[0], b[0], a[1], b[1], strict=True):
        product = sum(min(value, other[gram]) * other[gram] for gram, value in own.items() if gram in other)
        total += product / (norm * other_norm) if norm and other_norm else product
    return total * math.exp(-((a[2] - b[2]) ** 2) / (2 * 6.0**2))


def _grams(words: Sequence[str]) -> Grams:
    return Counter(tuple(words[i : i + n]) for n in range(1, _N + 1) for i in range(len(words) - n + 1))


def mentioned(caption: str, synonyms: Mapping[str, str]) -> list[str]:
    """The objects that a caption names, in order, repeats kept (Rohrbach et al. 2018, §3).

    Args:
        caption: any text.
        synonyms: word or two words in lower case → the object they name; plurals are looked up without their s.

    Returns:
        Objects by name; the longer name wins (`hot dog` is no dog).
    """
    words = [word for text in tokenize([caption]) for word in text.split()]
    found, at = [], 0
    while at < len(words):
        for size in (3, 2, 1):
            phrase = " ".join(words[at : at + size])
            name = next((synonyms[form] for form in _singular(phrase) if form in synonyms), None)
            if name is not None and at + size <= len(words):
                found.append(name)
                at += size
                break
        else:
            at += 1
    return found


def _singular(phrase: str) -> tuple[str, ...]:
    ends = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", ""))
    return (phrase, *(phrase.removesuffix(end) + new for end, new in ends if phrase.endswith(end)))


def chair(
    captions: Sequence[str], objects: Sequence[set[str]], synonyms: Mapping[str, str]
) -> tuple[list[int], list[int]]:
    """Hallucinated and all object mentions of each caption.

    CHAIR_i is the sum of the first over the sum of the second; CHAIR_s the share of captions whose first isn't 0.

    Args:
        captions: (N) texts.
        objects: (N) what each picture truly holds: annotated objects and those its references name.
        synonyms: see `mentioned`.

    Returns:
        (N) hallucinated and (N) all mentions.
    """
    names = [mentioned(caption, synonyms) for caption in captions]
    wrong = [sum(name not in true for name in found) for found, true in zip(names, objects, strict=True)]
    return wrong, [len(found) for found in names]
