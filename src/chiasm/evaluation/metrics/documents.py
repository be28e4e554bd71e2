"""Text in pictures: ANLS (Biten et al. 2019), ChartQA's relaxed accuracy (Masry et al. 2022), OCRBench (2024)."""

from __future__ import annotations

from collections.abc import Sequence


def anls(answer: str, references: Sequence[str]) -> float:
    """Normalised Levenshtein similarity to the nearest reference, 0 where it is below a half.

    Args:
        answer: the model's; case and runs of white space don't count.
        references: accepted answers.

    Returns:
        0 to 1. Exactly one half counts, as in the public implementations (the paper's formula has it at 0).
        Two empty texts are equal; no reference scores 0.
    """
    best = max((_similarity(_flat(answer), _flat(reference)) for reference in references), default=0.0)
    return best if best >= 0.5 else 0.0


def _flat(text: str) -> str:
    return " ".join(text.strip().lower().split())


def _similarity(a: str, b: str) -> float:
    longest = max(len(a), len(b))
    return 1.0 - levenshtein(a, b) / longest if longest else 1.0


def levenshtein(a: Sequence[object], b: Sequence[object]) -> int:
    """Fewest insertions, deletions and substitutions that turn one sequence into the other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(diagonal + (x != y), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def relaxed_match(answer: str, reference: str, tolerance: float = 0.05) -> float:
    """1 where a number is within 5 % of the reference's, or a text equals it, case aside; else 0.

    Args:
        answer: the model's; ``12%`` is read as 0.12, as the reference is.
        reference: the truth; a true zero must be written alike, since no share of it is allowed.
        tolerance: greatest relative difference.
    """
    given, true = _number(answer.strip()), _number(reference.strip())
    if given is not None and true:
        return float(abs(given - true) / abs(true) <= tolerance)
    return float(answer.strip().lower() == reference.strip().lower())


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def ocr_contains(answer: str, references: Sequence[str], *, handwritten_formula: bool = False) -> float:
    """OCRBench's rule: 1 where the reply holds a reference, else 0.

    Args:
        answer: the model's.
        references: accepted texts; an empty one is never held.
        handwritten_formula: compare without any space and with case, as its HME100K part does.
    """

    def shape(text: str) -> str:
        text = text.strip().replace("\n", " ")
        return text.replace(" ", "") if handwritten_formula else text.lower()

    return float(any(shape(reference) and shape(reference) in shape(answer) for reference in references))
