"""VSE's structure-conditioned decoder describes held-out scenes: CIDEr-D beside the mean picture and the text itself.

    chiasm train vse_cells_writer --out runs/writer
    python benchmarks/structured.py runs/writer

Structures are the ten commonest of 2,000 training captions; of one caption in each, the nearest to the picture counts.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np
import torch

import chiasm
from chiasm.data.collation import picture
from chiasm.data.named import open_named
from chiasm.evaluation.controls import mean_picture
from chiasm.evaluation.metrics.captions import cider_d, tokenized
from chiasm.recipes.fusing_cells import word_kinds


def structures(tokenizer: object, kinds: tuple[int, ...], data: str, count: int = 10) -> torch.Tensor:
    """(K, T) the commonest sequences of kinds of a data set's captions, 0 behind the last."""
    before, after = tokenizer.wrapping
    seen = Counter(
        tuple(kinds[token] for token in [*tokenizer.encode(sample.captions[0]), *after]) for sample in open_named(data)
    )
    common = [row for row, _ in seen.most_common(count)]
    longest = max(map(len, common))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in common])


def main() -> None:
    """Measure a model and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", default="scenes:val:captions?nouns=24&count=100")
    asked = parser.parse_args()
    model, samples = chiasm.load(asked.model), list(open_named(asked.data))
    tokenizer = model.processor.tokenizer
    known = structures(tokenizer, word_kinds(tokenizer), "scenes:train:captions?nouns=24&count=2000")
    shown = [picture(sample).picture().convert("RGB") for sample in samples]
    mean = mean_picture(shown, most=len(shown))
    places = {
        "seen": model.embed_images(shown),
        "blind": model.embed_images([mean] * len(shown)),
        "from the caption itself": model.embed_texts([sample.captions[0] for sample in samples]),
    }
    for name, vectors in places.items():
        rows = model.module.write_best(vectors, known, tokenizer.wrapping[0][0]).tolist()
        said = [tokenizer.decode([token for token in row if token >= 0]) for row in rows]
        scores = cider_d(*tokenized(said, [sample.captions for sample in samples]))
        print(f"{name}: CIDEr-D {np.mean(scores):.2f}; first: {said[0]!r} of {samples[0].captions[0]!r}")


if __name__ == "__main__":
    main()
