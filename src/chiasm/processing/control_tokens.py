"""Control tokens: kept apart from what a user typed, and where a rendered prompt is cut.

To tell the template's `<|im_end|>` from one that a user typed, a sentinel (a private-use character that occurs nowhere
else) goes into every user text after each character that could open a control token; after the cuts the sentinels are
dropped again, so ordinary text gets exactly the reference's ids. Supervised spans are marked the same way, by two more
private-use characters around the assistant's words, so labels never come from a second tokenization.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

from chiasm.processing.tokenizer import Tokenizer

_PRIVATE_USE = range(0x100000, 0x10FFFE)


@dataclass(frozen=True, slots=True)
class Marks:
    """Three private-use characters that occur nowhere in a conversation or its template."""

    guard: str
    opening: str
    closing: str

    @classmethod
    def beside(cls, used: Collection[str]) -> Marks:
        """Three that are none of the characters used."""
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
        return cls(next(free), next(free), next(free))


@dataclass(frozen=True, slots=True)
class Stretch:
    """Text between two control tokens, with the character ranges that are supervised."""

    text: str
    first: bool
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Control:
    """A control token that the template wrote."""

    token: str
    supervised: bool


class ControlTokens:
    """The strings that only a template may write.

    Args:
        tokenizer: whose control tokens they are.
        slots: further ones, such as the token that stands for a picture.
    """

    def __init__(self, tokenizer: Tokenizer, slots: Collection[str]) -> None:
        self._tokenizer, self._slots = tokenizer, frozenset(slots)

    def guarded(self, text: str, marks: Marks, supervised: bool) -> str:
        """A user's or an assistant's text, which can spell no control token any more; marked where it is supervised."""
        safe = self._openers.sub(lambda match: match.group() + marks.guard, text) if self._openers else text
        core = safe.lstrip()
        space = safe[: len(safe) - len(core)]
        plain = text.strip()
        if plain and (plain.startswith(self._endings) or any(plain in token for token in self._spelled)):
            core = marks.guard + core  # it could complete a control token that template words begin
        if supervised and plain:
            kept = core.rstrip()
            core = marks.opening + kept + marks.closing + core[len(kept) :]
        return space + core

    def split(self, rendered: str, marks: Marks, turn_end: str | None) -> Iterator[Stretch | Control]:
        """Cut a rendered prompt at the control tokens that the template wrote.

        Args:
            rendered: with the marks in it.
            marks: the conversation's.
            turn_end: the token that ends an assistant's turn, supervised with it; None = none is.
        """
        reader = _Reader(marks)
        position, first = 0, True
        for match in self._pattern(marks).finditer(rendered):
            token = self._tokenizer.control_tokens.get(match.group())
            if token is not None and token.single_word and _inside_word(rendered, match):
                continue
            text = rendered[position : match.start()]
            position = match.end()
            if token is not None and token.lstrip:
                text = text.rstrip()
            if token is not None and token.rstrip:
                position += len(rendered[position:]) - len(rendered[position:].lstrip())
            ends = match.group() == turn_end
            if stretch := reader.stretch(text, first, ends):
                yield stretch
            first = False
            yield Control(match.group(), reader.control(ends))
        if stretch := reader.stretch(rendered[position:], first, False):
            yield stretch

    def first(self, text: str, marks: Marks) -> str | None:
        """The control token that a text begins with."""
        match = self._pattern(marks).match(text)
        return match.group() if match else None

    def _pattern(self, marks: Marks) -> re.Pattern[str]:
        # A token of one character can't be broken by what follows its first, so the sentinel itself is looked for.
        spelled = [re.escape(token) + (f"(?!{marks.guard})" if len(token) == 1 else "") for token in self._spelled]
        return re.compile("|".join(spelled) or "(?!)")

    @cached_property
    def _spelled(self) -> tuple[str, ...]:
        tokens = set(self._tokenizer.control_tokens) | self._slots
        return tuple(sorted(tokens, key=lambda token: (-len(token), token)))

    @cached_property
    def _openers(self) -> re.Pattern[str] | None:
        first = sorted({token[0] for token in self._spelled})
        return re.compile("[" + re.escape("".join(first)) + "]") if first else None

    @cached_property
    def _endings(self) -> tuple[str, ...]:
        return tuple(sorted({token[cut:] for token in self._spelled for cut in range(1, len(token))}))


class _Reader:
    """Walks the rendered prompt and keeps track of what is supervised."""

    def __init__(self, marks: Marks) -> None:
        self._marks, self._inside, self._after = marks, False, False

    def stretch(self, text: str, first: bool, ends: bool) -> Stretch | None:
        """The text without its marks; `ends`: the token that ends a turn comes next."""
        clean: list[str] = []
        ranges: list[tuple[int, int]] = []
        begin = 0
        for character in text:
            if character == self._marks.guard:
                continue
            if character == self._marks.opening:
                self._inside, self._after, begin = True, False, len(clean)
            elif character == self._marks.closing:
                self._inside, self._after = False, True
                ranges.append((begin, len(clean)))
            else:
                clean.append(character)
                self._after = self._after and character.isspace()
        if self._inside:
            ranges.append((begin, len(clean)))
        elif self._after and ends and ranges:  # space between the words and the turn's end is learned as well
            ranges[-1] = (ranges[-1][0], len(clean))
        return Stretch("".join(clean), first, tuple(ranges)) if clean else None

    def control(self, ends: bool) -> bool:
        """True when the token is supervised."""
        closes, self._after = self._after and ends, False
        return self._inside or closes


def _inside_word(text: str, match: re.Match[str]) -> bool:
    around = text[max(0, match.start() - 1) : match.start()] + text[match.end() : match.end() + 1]
    return any(character.isalnum() or character == "_" for character in around)
