"""Answers by letter: MMMU's reading of replies (Yue et al. 2024) and MMBench's circular questions (Liu et al. 2024).

Known departure from MMMU's script: where it draws a letter by lot because none was found, this returns None, and the
reply counts as a parse failure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CUES = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")


def parse_letter(reply: str, options: Sequence[str]) -> str | None:
    """Find the letter that a reply chooses.

    Looks for ``(A)``, then a letter by itself, then ``A.``, then, in replies of more than five words, an option's
    own text; of several, the last one mentioned counts.

    Args:
        reply: any text.
        options: the options' texts, first ``A``.

    Returns:
        The letter, or None: none was found, and none is drawn.
    """
    text = reply
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    letters = LETTERS[: len(options)]
    for before, after, place in (("(", ")", "({})"), ("", " ", " {} "), ("", ".", " {} ")):
        found = [letter for letter in letters if before + letter + after in text]
        if found:
            return max(found, key=lambda letter, place=place: text.rfind(place.format(letter)))  # type: ignore[misc]
    if len(text.split()) <= 5:
        return None
    spoken = [at for at, option in enumerate(options) if option.lower() in text.lower()]
    if not spoken:
        return None
    return letters[max(spoken, key=lambda at: text.lower().rfind(options[at].lower()))]


def parse_option(reply: str, options: Sequence[str]) -> str | None:
    """`parse_letter`, or the one option that the whole reply equals (`a red bus`), case and the full stop aside."""
    letter = parse_letter(reply, options)
    if letter is not None:
        return letter
    said = reply.strip().rstrip(".").strip().lower()
    same = [at for at, option in enumerate(options) if option.strip().rstrip(".").lower() == said]
    return LETTERS[same[0]] if len(same) == 1 else None


def open_answers(reply: str) -> list[str | float]:
    """What an open reply may mean: its key phrases and their numbers, normalised (MMMU's open questions)."""
    reply = reply.strip().strip(".").lower()
    pieces = re.split(r"\.\s(?=[A-Z])|\n", reply)
    keys = []
    for at, piece in enumerate(pieces):
        cues = (*_CUES, "=") if at == len(pieces) - 1 else _CUES
        shortest = ""
        for cue in cues:
            if cue in piece:
                end = piece.split(cue)[-1].strip()
                # an empty end forgets what was found before, as in the original
                shortest = end if not shortest or len(end) < len(shortest) else shortest
        if shortest and shortest not in list(":,.!?;'"):
            keys.append(shortest)
    keys = keys or [reply]
    numbers = [number for key in keys for number in _numbers(key)]
    return list(dict.fromkeys(value for text in [*keys, *numbers] for value in _normal(text)))


def open_match(reply: str, references: Sequence[str]) -> float:
    """1 where a reading of the reply holds a reference (numbers: equals it to two decimals), else 0."""
    wanted = [value for reference in references for value in _normal(reference)]
    for read in open_answers(reply):
        if isinstance(read, str) and any(isinstance(value, str) and value in read for value in wanted):
            return 1.0
        if not isinstance(read, str) and read in wanted:
            return 1.0
    return 0.0


def _numbers(text: str) -> list[str]:
    with_commas = re.findall(r"-?\b\d{1,3}(?:,\d{3})+\b", text)
    scientific = re.findall(r"-?\d+(?:\.\d+)?[eE][+-]?\d+", text)
    simple = re.findall(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])", text)
    return [*with_commas, *scientific, *simple]


def _normal(text: str) -> list[str | float]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]  # a letter alone would match anything


def circular(rights: Sequence[float], questions: Sequence[str]) -> dict[str, float]:
    """MMBench's circular accuracy: a question counts where every rotation of its options was answered rightly.

    Args:
        rights: (N) 1 or 0 a rotation.
        questions: (N) the question of each rotation.

    Returns:
        1 or 0 for each question, in order of appearance.
    """
    found: dict[str, float] = {}
    for right, question in zip(rights, questions, strict=True):
        found[question] = min(found.get(question, 1.0), right)
    return found


def rotations(options: Sequence[str]) -> list[list[int]]:
    """Every rotation of the options, as indices: the order in which MMBench asks a question again."""
    count = len(options)
    return [[(at + shift) % count for at in range(count)] for shift in range(count)]
