"""Reading a SentencePiece `.model` file, and the same tokenizer in the `tokenizers` library.

SentencePiece (Kudo & Richardson, 2018) stores one protocol-buffer message: the pieces with their scores and
types, how the model was trained, and how text is normalised. The few fields needed here are read straight from
the wire format, so neither protobuf nor generated code is needed.

BPE models hold no merge list; a merge is any split of a piece into two pieces, ranked by the piece's own place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from chiasm.core.errors import CheckpointError

UNDERLINE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SentencePieceModel:
    """The parts of a SentencePiece model that tokenization depends on.

    Attributes:
        pieces: (text, score, type) of every piece, by id.
        model_type: 1 Unigram, 2 BPE.
        unk_id, bos_id, eos_id, pad_id: of the control pieces; −1 = there is none.
        byte_fallback: text without a piece becomes byte pieces.
        add_dummy_prefix: a space is put before the text.
        remove_extra_whitespaces: runs of spaces become one, those at the ends go.
        charsmap: compiled character normalisation; empty for identity.
    """

    pieces: tuple[tuple[str, float, int], ...]
    model_type: int
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = -1
    byte_fallback: bool = False
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    charsmap: bytes = b""

    def piece(self, index: int) -> str | None:
        """The piece with this id; None when the id is unset or out of range."""
        return self.pieces[index][0] if 0 <= index < len(self.pieces) else None


def read_sentencepiece(data: bytes) -> SentencePieceModel:
    """Read a serialized SentencePiece model.

    Args:
        data: the bytes of a `.model` file.

    Returns:
        Its pieces and settings.

    Raises:
        CheckpointError: the bytes are not a SentencePiece model.
    """
    try:
        top = list(_fields(data))
        pieces = tuple(_piece(value) for number, value in top if number == 1 and isinstance(value, bytes))
        trainer = _message(top, 2)
        normalizer = _message(top, 3)
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise CheckpointError("tokenizer_malformed", f"not a SentencePiece model: {error}") from error
    if not pieces:
        raise CheckpointError("tokenizer_malformed", f"a SentencePiece model of {len(data)} bytes has 0 pieces")
    return SentencePieceModel(
        pieces=pieces,
        model_type=_integer(trainer, 3, UNIGRAM),
        unk_id=_integer(trainer, 40, 0),
        bos_id=_integer(trainer, 41, 1),
        eos_id=_integer(trainer, 42, 2),
        pad_id=_integer(trainer, 43, -1),
        byte_fallback=bool(_integer(trainer, 35, 0)),
        add_dummy_prefix=bool(_integer(normalizer, 3, 1)),
        remove_extra_whitespaces=bool(_integer(normalizer, 4, 1)),
        charsmap=_bytes(normalizer, 2),
    )


def write_sentencepiece(model: SentencePieceModel) -> bytes:
    """Serialize a model so that SentencePiece itself loads it; the inverse of `read_sentencepiece`."""
    pieces = b"".join(
        _field(1, _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _field(3, kind))
        for text, score, kind in model.pieces
    )
    numbers = [(3, model.model_type), (35, int(model.byte_fallback)), (40, model.unk_id), (41, model.bos_id)]
    numbers += [(42, model.eos_id), (43, model.pad_id)]
    trainer = b"".join(_field(number, value) for number, value in numbers)
    normalizer = _field(1, b"identity") + (_field(2, model.charsmap) if model.charsmap else b"")
    normalizer += _field(3, int(model.add_dummy_prefix)) + _field(4, int(model.remove_extra_whitespaces))
    return pieces + _field(2, trainer) + _field(3, normalizer)


def merges_of(vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """Merges implied by a vocabulary whose ids follow the order of merging.

    Args:
        vocab: piece → id.

    Returns:
        (left, right) pairs, best first.
    """
    ranked = []
    for piece, rank in vocab.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocab and right in vocab:
                ranked.append((rank, len(left), len(right), left, right))
    ranked.sort(key=lambda item: item[:3])
    return [(left, right) for _, _, _, left, right in ranked]


def unigram(model: SentencePieceModel) -> Tokenizer:
    """The `tokenizers` equivalent of a SentencePiece Unigram model.

    Control and unknown pieces keep their ids but can't be matched in text: SentencePiece leaves them out of its
    lattice, which a score far below every other imitates.
    """
    floor = min(score for _, score, _ in model.pieces) - 1000.0
    inert = (CONTROL, UNKNOWN, UNUSED)
    vocab = [(text, floor if kind in inert else score) for text, score, kind in model.pieces]
    backend = Tokenizer(models.Unigram(vocab, unk_id=model.unk_id, byte_fallback=model.byte_fallback))
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    if steps:
        backend.normalizer = normalizers.Sequence(steps)
    scheme = "always" if model.add_dummy_prefix else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=UNDERLINE, prepend_scheme=scheme, split=True)
    steps_back = [decoders.Replace(UNDERLINE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps_back, decoders.Strip(content=" ", left=1)])
    return backend


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        value: bytes | int
        if wire == 0:
            value, position = _varint(data, position)
        elif wire in (1, 5):
            width = 8 if wire == 1 else 4
            value, position = data[position : position + width], position + width
        elif wire == 2:
            length, position = _varint(data, position)
            if position + length > len(data):
                raise ValueError(f"field {number} needs {length} bytes, {len(data) - position} are left")
            value, position = data[position : position + length], position + length
        else:
            raise ValueError(f"unknown wire type {wire} at byte {position}")
        yield number, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError(f"a number runs past 64 bits at byte {position}")


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return _number(number << 3) + _number(value % (1 << 64))
    return _number(number << 3 | 2) + _number(len(value)) + value


def _number(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _piece(data: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif number == 2 and isinstance(value, bytes):
            score = struct.unpack("<f", value)[0]
        elif number == 3 and isinstance(value, int):
            kind = value
    return text, score, kind


def _message(fields: Sequence[tuple[int, bytes | int]], number: int) -> dict[int, bytes | int]:
    found = [value for key, value in fields if key == number and isinstance(value, bytes)]
    return dict(_fields(found[-1])) if found else {}


def _integer(message: Mapping[int, bytes | int], number: int, default: int) -> int:
    value = message.get(number, default)
    assert isinstance(value, int)
    return value - (1 << 64) if value >= 1 << 63 else value  # negative numbers are stored as 64-bit complements


def _bytes(message: Mapping[int, bytes | int], number: int) -> bytes:
    value = message.get(number, b"")
    return value if isinstance(value, bytes) else b""
