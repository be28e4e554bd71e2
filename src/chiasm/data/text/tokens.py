"""Documents as tokens: a byte-level BPE made from them, and one long line of ids cut into rows.

The ids of a told scene are those that the prompt renderer gives: the template's words and the user's are encoded
together, and apart from what stands where visual tokens will. Every stretch and every line begins with a space that
decoding takes away again, so that a word is the same piece at the start of an answer as in the middle of the words it
is read from: a small model copies pieces long before it learns which two pieces are one word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from chiasm.data.text.documents import Document
from chiasm.processing.tokenizer import Tokenizer

END, START, STOP, IMAGE = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"
ANSWER_WEIGHT = 8  # a token of an answer about a picture counts as much as so many others: it is what the model is for
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
    backend.train_from_iterator([*texts, *more], trainer)
    return wrapped(backend)


def wrapped(backend: Backend) -> Tokenizer:
    """The backend with its named tokens: a turn's end ends a reply."""
    return Tokenizer(backend, named={"eos_token": STOP, "pad_token": END})


def encode(document: Document, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """One document as ids with their weights: answers about pictures weigh `ANSWER_WEIGHT`, the rest 1.

    Args:
        document: what to encode.
        tokenizer: knows the control tokens.

    Returns:
        (T,) ids and (T,) weights, ended by the end-of-text token.
    """
    ids: list[int] = []
    weights: list[int] = []

    def add(new: Sequence[int], weight: int = 1) -> None:
        ids.extend(new)
        weights.extend([weight] * len(new))

    start, stop, end = (tokenizer.token_to_id(token) for token in (START, STOP, END))
    assert start is not None and stop is not None and end is not None
    seeing = any(speech.shown for speech in document)
    for speech in document:
        if speech.role is None:
            add(tokenizer.encode(speech.text))
            continue
        add([start])
        if speech.role == "assistant":
            head, whole = tokenizer.encode("assistant\n"), tokenizer.encode(f"assistant\n{speech.text}")
            assert whole[: len(head)] == head
            add(head)
            add([*whole[len(head) :], stop], ANSWER_WEIGHT if seeing else 1)
        elif speech.shown:
            add(tokenizer.encode(f"{speech.role}\n"))
            add(tokenizer.encode(speech.shown))
            add([*tokenizer.encode(speech.text), stop])
        else:
            add([*tokenizer.encode(f"{speech.role}\n{speech.text}"), stop])
        add(tokenizer.encode("\n"))
    add([end])
    return ids, weights


def line_up(documents: Iterable[Document], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """All documents one after the other: (n,) ids (uint16) and (n,) weights (uint8)."""
    ids: list[int] = []
    weights: list[int] = []
    for document in documents:
        more, weighed = encode(document, tokenizer)
        ids += more
        weights += weighed
    return np.array(ids, np.uint16), np.array(weights, np.uint8)
