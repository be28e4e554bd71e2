"""Constraints at work: which tokens may come next, by llguidance's parser over our tokenizers' bytes.

Every limit is set here: a schema or an expression that costs more is refused, in milliseconds, before a token is drawn,
or fails its own request at the step that would cost too much.
"""

from __future__ import annotations

import json
import logging
import re
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from chiasm.core.constraints import Choices, Constraint, JsonSchema, Regex
from chiasm.core.errors import ChiasmError, ConfigError
from chiasm.generation.vocabulary import edges, openers, token_bytes
from chiasm.processing.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

log = logging.getLogger("chiasm.generation")

_LIMITS = {
    "max_items_in_row": 2000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 20_000,  # of one to two kilobytes each
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # as json.dumps writes it
_LOOSE_JSON = {"whitespace_flexible": True, "whitespace_pattern": "[ ]?"}  # words bring spaces along as they like
_vocabularies: weakref.WeakKeyDictionary[Tokenizer, dict[tuple[int, ...], LLTokenizer]] = weakref.WeakKeyDictionary()


class GrammarMatcher:
    """Follows one reply; see `sampling.Matcher`.

    Args:
        parser: follows the bytes.
        openers: (V′,) bool, the tokens that a reply may begin with; None = all.
    """

    def __init__(self, parser: LLMatcher, openers: torch.Tensor | None = None) -> None:
        self._parser, self._openers = parser, openers

    def masked(self, logits: torch.Tensor) -> torch.Tensor:
        """(1, V) logits → the same with −∞ where a token may not come next.

        Raises:
            ConfigError: constraint_too_complex, constraint_unreachable.
        """
        bits = torch.frombuffer(bytearray(self._parser.compute_bitmask()), dtype=torch.uint8)
        self._check()
        flags = ((bits[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten().bool()
        allowed = torch.zeros(logits.shape[-1], dtype=torch.bool)
        if self._openers is not None:
            flags = flags[: len(self._openers)] & self._openers
        size = min(len(flags), len(allowed))
        allowed[:size] = flags[:size]
        if not bool(allowed.any()):
            what = "no token of this model's vocabulary can go on with a reply of the wanted form"
            raise ConfigError("constraint_unreachable", what)
        return logits.masked_fill(~allowed.to(logits.device), -torch.inf)

    def take(self, token_id: int) -> None:
        """The reply goes on with this token."""
        self._openers = None
        self._parser.consume_token(token_id)
        self._check()

    @property
    def over(self) -> bool:
        """Nothing but the end may follow."""
        return self._parser.is_stopped()

    def _check(self) -> None:
        if self._parser.is_error():
            log.debug("a constraint can't be followed further: %s", self._parser.get_error()[:500])
            what = "following the constraint takes more work than one token may cost"
            raise ConfigError("constraint_too_complex", what, hint="a simpler schema or expression")


class Grammars:
    """Constraints for one model.

    Args:
        tokenizer: of the model.
        end_ids: ids that end a reply.
    """

    def __init__(self, tokenizer: Tokenizer, end_ids: Sequence[int]) -> None:
        self._tokenizer, self._end_ids = tokenizer, tuple(sorted(end_ids))

    def matcher(self, constraint: Constraint) -> GrammarMatcher:
        """Begin to follow one reply.

        Args:
            constraint: the form of the reply.

        Raises:
            ConfigError: constraint_invalid for what isn't a schema or an expression; constraint_too_complex beyond the
                limits.
            ChiasmError: package_missing.
        """
        try:
            from llguidance import LLMatcher, LLParserLimits
        except ModuleNotFoundError:
            what = "constraints need the package 'llguidance', which is not installed"
            raise ChiasmError("package_missing", what, hint='pip install "chiasm[constraints]"') from None
        limits = LLParserLimits(**_LIMITS)  # type: ignore[arg-type]
        parser = LLMatcher(self._vocabulary(), self._grammar(constraint), log_level=0, limits=limits)
        if parser.is_error():
            raise _refusal(constraint, parser.get_error())
        return GrammarMatcher(parser, openers(self._tokenizer))

    def _grammar(self, constraint: Constraint) -> str:
        ends = edges(self._tokenizer)
        opening = "SPACE? " if ends.may_open else ""
        start = f"start: {opening}body{' SPACE?' if ends.may_close else ''}\n"
        space = 'SPACE: " "\n' if opening or ends.may_close else ""
        # unforced: what must come next is left to the model's own tokens, whose spaces may stand at either side
        return (
            '%llguidance {"no_forcing": true}\n'
            + start
            + space
            + _body(constraint, _LOOSE_JSON if ends.pieces else _JSON)
        )

    def _vocabulary(self) -> LLTokenizer:
        built = _vocabularies.setdefault(self._tokenizer, {})
        if self._end_ids not in built:
            from llguidance import LLTokenizer, TokenizerWrapper

            ends = list(self._end_ids) or [self._tokenizer.pad_id]
            words = TokenizerWrapper(_Words(self._tokenizer, ends[0]))
            built[self._end_ids] = LLTokenizer(words, n_vocab=len(self._tokenizer), eos_token=ends)
        return built[self._end_ids]


class _Words:
    """A tokenizer as llguidance wants to see it."""

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self.eos_token_id, self.bos_token_id = end, None
        self.tokens = token_bytes(tokenizer)
        self.special_token_ids = sorted(tokenizer.special_ids | tokenizer.control_ids | {end})
        self._tokenizer = tokenizer

        self._ids = {word: index for index, word in reversed(list(enumerate(self.tokens))) if word}
        self._longest = max(map(len, self.tokens))

    def __call__(self, text: str | bytes) -> list[int]:
        """Ids whose bytes join to the text: the tokenizer's own where they do, else the longest that fit."""
        data = text if isinstance(text, bytes) else text.encode()
        ids = self._tokenizer.encode(data.decode("utf-8", "replace"), first=False)
        return ids if b"".join(self.tokens[index] for index in ids) == data else self._greedy(data)

    def _greedy(self, data: bytes) -> list[int]:
        found, at = [], 0
        while at < len(data):
            sizes = range(min(self._longest, len(data) - at), 0, -1)
            size = next((size for size in sizes if data[at : at + size] in self._ids), 0)
            if not size:
                break  # what no token begins with by itself may be part of a longer one, once more is known
            found.append(self._ids[data[at : at + size]])
            at += size
        return found


def _body(constraint: Constraint, spacing: Mapping[str, Any]) -> str:
    if isinstance(constraint, JsonSchema):
        schema: dict[str, Any] = json.loads(constraint.schema)
        schema.pop("x-guidance", None)  # the parser's own options are ours to set
        return f"body: %json {json.dumps({**schema, 'x-guidance': spacing})}\n"
    if isinstance(constraint, Choices):
        return "body: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in constraint.texts) + "\n"
    return f"body: EXPRESSION\nEXPRESSION: /{_slashed(constraint.pattern)}/\n"


def _slashed(pattern: str) -> str:
    """The expression between slashes: those of its own escaped, its line breaks spelled."""
    out, escaped = [], False
    for letter in pattern:
        if letter == "/" and not escaped:
            out.append("\\/")
        else:
            out.append({"\n": "\\n" if not escaped else "n", "\r": "\\r" if not escaped else "r"}.get(letter, letter))
        escaped = letter == "\\" and not escaped
    return "".join(out)


def _refusal(constraint: Constraint, message: str) -> ConfigError:
    kind = {JsonSchema: "schema", Choices: "choice", Regex: "regular expression"}[type(constraint)]
    why = " ".join(re.split(r"\n\s*\d+ \|", message)[0].split())[:300]  # without the grammar that we wrote ourselves
    if any(word in why for word in ("limit", "fuel", "too large", "too complex", "too big", "too many")):
        return ConfigError("constraint_too_complex", f"the {kind} costs too much to follow: {why}")
    return ConfigError("constraint_invalid", f"the {kind} can't be followed: {why}")
