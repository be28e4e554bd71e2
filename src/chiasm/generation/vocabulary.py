"""What each token of a vocabulary adds to a text, as bytes.

Byte-level BPE spells bytes with printable letters (Radford et al. 2019, §2.2); SentencePiece has ▁ for a space and
`<0x0A>` for a byte; WordPiece joins what begins with ## and puts a space before the rest; CLIP's BPE marks the end of
a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from chiasm.processing.tokenizer import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_ATTACHED = (".", "?", "!", ",")  # WordPiece's decoder takes the space before them away


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of every token; nothing for control tokens and for ids without a token.

    Args:
        tokenizer: of any kind that `Tokenizer` reads.

    Returns:
        One entry an id, `len(tokenizer)` of them.
    """
    state = json.loads(tokenizer.backend.to_str())
    spell = _speller(state)
    added = {token["id"]: token["content"] for token in state["added_tokens"]}
    mute = tokenizer.special_ids | tokenizer.control_ids
    found = []
    for index in range(len(tokenizer)):
        token = tokenizer.id_to_token(index)
        if token is None or index in mute:
            found.append(b"")
        else:
            found.append(added[index].encode() if index in added else spell(token))
    return found


@dataclass(frozen=True, slots=True)
class Edges:
    """Spaces that tokens bring along and that are dropped when a reply is read back.

    Attributes:
        may_open: a space before the text is dropped.
        may_close: a space behind the text is dropped.
        pieces: a space can't stand by itself, only at the front of a word.
    """

    may_open: bool
    may_close: bool
    pieces: bool


def edges(tokenizer: Tokenizer) -> Edges:
    """What happens to spaces around and between the words of a tokenizer."""
    state = json.loads(tokenizer.backend.to_str())
    kinds, suffix = _decoders(state["decoder"]), bool(state["model"].get("end_of_word_suffix"))
    pieces = bool(kinds & {"WordPiece", "None"}) and not suffix
    return Edges(suffix or pieces or bool(kinds & {"Metaspace", "Strip"}), suffix, pieces)


def openers(tokenizer: Tokenizer) -> torch.Tensor | None:
    """(V,) bool, the tokens that may begin a text (WordPiece's ## would stay in it); None = all."""
    if not edges(tokenizer).pieces:
        return None
    return torch.tensor([not word or word[:1] == b" " or word.decode() in _ATTACHED for word in token_bytes(tokenizer)])


def _decoders(step: Mapping[str, Any] | None) -> set[str]:
    if step is None:
        return {"None"}
    return {step["type"]}.union(*(_decoders(each) for each in step.get("decoders", ())))


def _speller(state: Mapping[str, Any]) -> Callable[[str], bytes]:
    kinds, suffix = _decoders(state["decoder"]), state["model"].get("end_of_word_suffix") or ""
    if suffix:
        letters = _letters() if "ByteLevel" in kinds or _byte_level(state) else None
        return lambda token: _word_end(token, suffix, letters)
    if "ByteLevel" in kinds:
        letters = _letters()
        return lambda token: _spelled(token, letters)
    if kinds & {"WordPiece", "None"}:
        return _word_piece
    return _sentence_piece


def _byte_level(state: Mapping[str, Any]) -> bool:
    return "ByteLevel" in json.dumps(state["pre_tokenizer"])


def _word_end(token: str, suffix: str, letters: Mapping[str, int] | None) -> bytes:
    word, end = (token[: -len(suffix)], b" ") if token.endswith(suffix) else (token, b"")
    return (word.encode() if letters is None else _spelled(word, letters)) + end


def _spelled(token: str, letters: Mapping[str, int]) -> bytes:
    if all(letter in letters for letter in token):
        return bytes(letters[letter] for letter in token)
    return token.encode()


def _word_piece(token: str) -> bytes:
    if token.startswith("##"):
        return token[2:].encode()
    return token.encode() if token in _ATTACHED else b" " + token.encode()


def _sentence_piece(token: str) -> bytes:
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()


@cache
def _letters() -> dict[str, int]:
    """The printable letter of each byte: itself where it is printable, else the next beyond the bytes."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {chr(byte): byte for byte in plain}
    for number, byte in enumerate(byte for byte in range(256) if byte not in set(plain)):
        letters[chr(256 + number)] = byte
    return letters
