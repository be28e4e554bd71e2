"""What the pico language model knows: answers read off a scene told in words, with and without the words; perplexity.

    python benchmarks/pico_text.py

An answer is right when every one of its tokens, its end included, is the likeliest one: what greedy decoding gives.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch

from chiasm.data.text.documents import TOLD, Document, Speech, told
from chiasm.data.text.tokens import encode
from chiasm.data.text.wordnet import entries
from chiasm.data.worlds.director import World
from chiasm.data.worlds.world import Scenes
from chiasm.evaluation.statistics import wilson
from chiasm.language.decoder import Decoder
from chiasm.processing.tokenizer import Tokenizer
from chiasm.weights.frozen import pico_text

PER_TASK = 100


def answered(decoder: Decoder, tokenizer: Tokenizer, document: Document) -> bool:
    """Whether the last turn comes out right, given everything before it."""
    before = document[:-1]
    start = len(encode(before, tokenizer)[0]) - 1  # without the end of the text
    ids = encode((*before, document[-1]), tokenizer)[0][:-1]
    stop = tokenizer.token_to_id("<|im_end|>")
    end = max(i for i, token in enumerate(ids) if token == stop)
    first = start + 1 + len(tokenizer.encode("assistant\n"))
    tokens = torch.tensor(ids)[None]
    with torch.inference_mode():
        logits = decoder.logits(decoder(decoder.embed_tokens(tokens)))[0]  # (T, V)
    return bool((logits[first - 1 : end].argmax(-1) == tokens[0, first : end + 1]).all())


def blind(document: Document) -> Document:
    """The same without the words that tell what is shown."""
    return tuple(Speech(speech.role, speech.text, "nothing." if speech.shown else "") for speech in document)


def documents(split: str, task: str, count: int) -> list[Document]:
    """Scenes of a split, told."""
    return [told(s, random.Random(s.key)) for s in Scenes(split, [task], count, World(seed=11))]


def perplexity(decoder: Decoder, tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Per token, over whole texts."""
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor(encode((Speech(None, text),), tokenizer)[0])[None]
        with torch.inference_mode():
            logits = decoder.logits(decoder(decoder.embed_tokens(ids[:, :-1])))
        total += float(torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum"))
        count += ids.shape[1] - 1
    return math.exp(total / count)


def main() -> None:
    """Print the table."""
    decoder, tokenizer = pico_text()
    print(f"| task | val | test | val, nothing told |\n|---|---|---|---|  ({PER_TASK} each, 95 % Wilson)")
    for task in TOLD:
        cells = []
        for split, hidden in (("val", False), ("test", False), ("val", True)):
            found = documents(split, task, PER_TASK)
            right = sum(answered(decoder, tokenizer, blind(d) if hidden else d) for d in found)
            low, high = wilson(right, len(found))
            cells.append(f"{100 * right / len(found):.1f} % ({100 * low:.0f}–{100 * high:.0f})")
        print(f"| {task} | {' | '.join(cells)} |", flush=True)
    rng = random.Random(5)
    told_ones = [f"{e.words[0]} ({e.part}): {e.definition}." for e in entries() if e.words[0].islower()]
    sampled = rng.sample(told_ones, 300)
    value = perplexity(decoder, tokenizer, sampled)
    print(f"perplexity of 300 definitions, one in four of which was trained on: {value:.1f}")


if __name__ == "__main__":
    main()
