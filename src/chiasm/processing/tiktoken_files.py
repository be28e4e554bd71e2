"""Vocabularies in tiktoken's form, a line of base64 and a rank for each piece: Qwen's first tokenizer.

A pair of neighbours is joined when the joined piece has a rank, the lowest rank first, so ranks are merges in order; a
word that is a piece by itself is never taken apart. No code of a checkpoint is run: the pattern that cuts text into
words and the control tokens behind the ranks are known here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from chiasm.core.errors import CheckpointError

MAX_PIECES, MAX_PIECE_BYTES = 1 << 20, 4096
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{index}|>" for index in range(205)))
QWEN_VL_CONTROLS = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>")


def read_ranks(data: bytes, name: str = "qwen.tiktoken") -> list[bytes]:
    """The pieces of a vocabulary file, by rank.

    Args:
        data: of the file.
        name: how errors name it.

    Returns:
        Pieces; the index is the rank.

    Raises:
        CheckpointError: a line that isn't base64 and a number, ranks with gaps, a byte without a piece.
    """
    ranks: dict[int, bytes] = {}
    lines = [line for line in data.splitlines() if line.strip()]
    if len(lines) > MAX_PIECES:
        raise _malformed(name, f"{len(lines)} pieces, at most {MAX_PIECES} are taken")
    for number, line in enumerate(lines, 1):
        try:
            spelled, rank = line.split()
            piece, at = base64.b64decode(spelled, validate=True), int(rank)
        except (ValueError, binascii.Error):
            raise _malformed(name, f"line {number} of {len(lines)} is no piece with its rank") from None
        if not piece or len(piece) > MAX_PIECE_BYTES or at in ranks or not 0 <= at < len(lines):
            raise _malformed(name, f"line {number} has a piece of {len(piece)} bytes at rank {at} of {len(lines)}")
        ranks[at] = piece
    pieces = [ranks[at] for at in range(len(lines))]
    if len(set(pieces)) < len(pieces):
        raise _malformed(name, f"{len(pieces) - len(set(pieces))} of {len(pieces)} pieces stand twice")
    missing = 256 - len({piece for piece in pieces if len(piece) == 1})
    if missing:
        raise _malformed(name, f"{missing} of 256 bytes have no piece of their own")
    return pieces


def write_ranks(pieces: Sequence[bytes]) -> bytes:
    """The file of `read_ranks`."""
    return b"".join(base64.b64encode(piece) + b" %d\n" % rank for rank, piece in enumerate(pieces))


def backend_of(pieces: Sequence[bytes], controls: Sequence[str]) -> Backend:
    """The pipeline of a vocabulary.

    Args:
        pieces: by rank.
        controls: control tokens, whose ids follow the pieces'.

    Returns:
        Text in Unicode's composed form, cut into words, each joined by ranks.
    """
    letters = _letters()
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    spelled = ["".join(letters[byte] for byte in piece) for piece in pieces]
    merges = []
    for rank, piece in enumerate(pieces):
        if len(piece) > 1:
            parts = _joined(piece, ranks, below=rank)
            if len(parts) == 2:
                merges.append(tuple("".join(letters[byte] for byte in part) for part in parts))
    vocab = {text: rank for rank, text in enumerate(spelled)}
    backend = Backend(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))  # type: ignore[arg-type]
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in controls])
    return backend


def _joined(word: bytes, ranks: dict[bytes, int], *, below: int) -> list[bytes]:
    """The pieces of a word when only ranks under `below` are joined."""
    parts = [word[at : at + 1] for at in range(len(word))]
    while len(parts) > 1:
        best = min(range(len(parts) - 1), key=lambda at: ranks.get(parts[at] + parts[at + 1], below))
        if ranks.get(parts[best] + parts[best + 1], below) >= below:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts


def _letters() -> list[str]:
    """GPT-2's letter for every byte: printable ones are themselves, the others follow from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def _malformed(name: str, what: str) -> CheckpointError:
    return CheckpointError("tokenizer_malformed", f"{name}: {what}")
