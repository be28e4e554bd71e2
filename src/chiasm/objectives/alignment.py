"""Alignment of visual tokens with a language model's own input embeddings, before any language model is run.

Every cell of a picture is compared with the words of some vocabularies (what is here, where, how many). A thing
belongs to the cell that holds its middle. For n things,

    L = −1/n · [ Σ_{cells with a thing} (log π(name) + Σ_v weight_v log π_v(word)) + Σ_{empty cells} log π("nothing") ]

so that every cell weighs the same in what it holds, and probabilities add up to numbers of things. Contrastive in
form (Radford et al. 2021, fig. 3), with the whole vocabulary as negatives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

NO_WORD = -1


def alignment_loss(logits: Sequence[torch.Tensor], targets: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Compare cells with their words.

    Args:
        logits: (B, P, words) of each vocabulary; the first has one more entry at its end, "nothing".
        targets: (B, P, vocabularies) int64, a word's number in each vocabulary; -1 = the cell holds nothing.
        weights: of each vocabulary but the first.

    Returns:
        A scalar.
    """
    held = targets[..., 0] != NO_WORD  # (B, P)
    words = targets[held]  # (n, vocabularies)
    what = torch.where(held, targets[..., 0], logits[0].shape[-1] - 1)
    loss = F.cross_entropy(logits[0].flatten(0, 1), what.flatten(), reduction="sum")
    for index, (scores, weight) in enumerate(zip(logits[1:], weights, strict=True), 1):
        loss = loss + weight * F.cross_entropy(scores[held], words[:, index], reduction="sum")
    return loss / held.sum()


def word_vectors(table: torch.Tensor, spellings: Sequence[Sequence[Sequence[int]]]) -> torch.Tensor:
    """Unit vectors of words from an embedding table.

    Args:
        table: (V, D) input embeddings.
        spellings: for each word, the token ids of each of its spellings.

    Returns:
        (words, D): the mean over a word's spellings of the mean over tokens, the table's mean taken away.
    """
    center = table.mean(0)
    vectors = []
    for word in spellings:
        each = torch.stack([table[list(ids)].mean(0) for ids in word])
        vectors.append(F.normalize(each - center, dim=-1).mean(0))
    return F.normalize(torch.stack(vectors), dim=-1)


def phrase_vectors(table: torch.Tensor, words: Sequence[Sequence[int]], tokens: int, filler: int) -> torch.Tensor:
    """Input embeddings of words, each brought to the same number of tokens.

    Args:
        table: (V, D) input embeddings.
        words: token ids of each word.
        tokens: of every phrase; a shorter word is filled up, of a longer one the last token is a mean.
        filler: the id that fills up.

    Returns:
        (words, tokens, D).
    """
    phrases = []
    for ids in words:
        kept = [table[index] for index in ids[: tokens - 1]]
        rest = table[list(ids[tokens - 1 :])].mean(0, keepdim=True) if len(ids) >= tokens else table[[filler]]
        phrases.append(torch.stack([*kept, *rest, *[table[filler]] * (tokens - len(kept) - 1)]))
    return torch.stack(phrases)
