"""Documents as tokens: a byte-level BPE made from them, and one long line of ids cut into rows.

The ids of a told scene are those that the prompt renderer gives: the template's words and the user's are encoded
together, and apart from what stands where visual tokens will. Every stretch and every line begins with a space that
decoding takes away again, so that a word is the same piece at the start of an answer as in the middle of the words it
is read from: a small model copies pieces long before it learns which two pieces are one word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from chiasm.data.text.documents import Document
from chiasm.processing.tokenizer import Tokenizer

END, START, STOP, IMAGE = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"
ANSWER_WEIGHT = 8  # a token of an answer about a picture counts as much as so many others: it is what the model is for
SMALL_WEIGHT = 1  # plain text
_LINE = Regex(r"\n(?=[^\n])")  # a line that goes on: what ends with a break, as an open turn does, gets no space


def learn_tokenizer(documents: Iterable[Document], size: int, more: Iterable[str] = ()) -> Tokenizer:
    """Make a byte-level BPE, every digit a token.

    Args:
        documents: what it is made from.
        size: of the vocabulary, control tokens included.
        more: further texts to spell.

    Returns:
        A tokenizer whose first four ids are the control tokens.
    """
    backend = Backend(models.BPE())
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(" "), normalizers.Replace(_LINE, "\n ")])
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace("\n ", "\n"), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END, START, STOP, IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for document in documents for speech in document for text in (speech.shown, speech.text) if text)
    turns = ["user\n", "assistant\n", "\n"] * 4000  # what stands around every turn is a piece or two
    backend.train_from_iterator([*texts, *turns, *more], trainer)
    return wrapped(backend)


def wrapped(backend: Backend) -> Tokenizer:
    """The backend with its named tokens: a turn's end ends a reply."""
    return Tokenizer(backend, named={"eos_token": STOP, "pad_token": END})


class Encoded(NamedTuple):
    """A document in tokens, three lists of equal length.

    Attributes:
        ids: of tokens.
        weights: how much predicting each token counts: `ANSWER_WEIGHT` in what is said about a picture, `SMALL_WEIGHT`
            in what is said without one, 0 in questions and in a picture's words, which nobody can predict.
        shown: whether the token stands where visual tokens will.
    """

    ids: list[int]
    weights: list[int]
    shown: list[bool]


def encode(document: Document, tokenizer: Tokenizer, known: dict[str, list[int]] | None = None) -> Encoded:
    """One document as tokens, ended by the end-of-text token.

    Args:
        document: what to encode.
        tokenizer: knows the control tokens.
        known: texts whose pieces are known; grows. Questions and answers come again and again.
    """
    known = {} if known is None else known

    def pieces(text: str) -> list[int]:
        found = known.get(text)
        if found is None:
            found = known[text] = tokenizer.encode(text)
        return found

    found = Encoded([], [], [])

    def add(new: Sequence[int], weight: int = 0, shown: bool = False) -> None:
        found.ids.extend(new)
        found.weights.extend([weight] * len(new))
        found.shown.extend([shown] * len(new))

    start, stop, end = (tokenizer.token_to_id(token) for token in (START, STOP, END))
    assert start is not None and stop is not None and end is not None
    seeing = any(speech.shown for speech in document)
    for speech in document:
        worth = 0 if not speech.learned else ANSWER_WEIGHT if seeing else SMALL_WEIGHT
        if speech.role is None:
            add(pieces(speech.shown) if speech.shown else (), shown=True)
            add(pieces(speech.text), worth)
            continue
        add([start])
        if speech.role == "assistant":
            head, whole = pieces("assistant\n"), pieces(f"assistant\n{speech.text}")
            assert whole[: len(head)] == head
            add(head)
            add([*whole[len(head) :], stop], worth)
        elif speech.shown:
            add(pieces(f"{speech.role}\n"))
            add(pieces(speech.shown), shown=True)
            add([*pieces(speech.text), stop])
        else:
            add([*pieces(f"{speech.role}\n{speech.text}"), stop])
        add(pieces("\n"))
    add([end], 0 if seeing else SMALL_WEIGHT)
    return found
