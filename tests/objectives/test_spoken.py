"""Words said of pictures beside words said of others: the formula, what counts, what is left out."""

import math

import pytest
import torch

from chiasm.core.batch import Batch
from chiasm.objectives.spoken import SpokenCells, said_words, spoken_loss


def test_the_loss_is_the_formula() -> None:
    torch.manual_seed(0)
    tokens, words = torch.randn(3, 4, 8), torch.randn(5, 8)
    said = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1]]).bool()
    total, count = 0.0, 0
    for row in range(3):
        scores = []
        for word in range(5):
            near = [float(torch.cosine_similarity(tokens[row, n], words[word], 0)) / 0.1 for n in range(4)]
            scores.append(math.log(sum(map(math.exp, near))))
        others = sum(math.exp(scores[word]) for word in range(5) if not said[row, word])
        for word in range(5):
            if said[row, word]:
                total -= math.log(math.exp(scores[word]) / (math.exp(scores[word]) + others))
                count += 1
    assert spoken_loss(tokens, words, said, 0.1).item() == pytest.approx(total / count, rel=1e-4)


def test_common_words_are_left_out() -> None:
    labels = torch.tensor([[-100, 7, 2], [-100, 9, 2], [-100, 7, 2], [5, 4, 2], [-100, 8, 2]])
    words, said = said_words(labels, 0.4)
    assert words.tolist() == [4, 5, 7, 8, 9]  # 2 ends every answer
    assert said[:, words.tolist().index(7)].tolist() == [True, False, True, False, False]
    assert said.sum(1).tolist() == [1, 1, 1, 2, 1]


def test_tokens_learn_to_say_their_words() -> None:
    torch.manual_seed(0)
    words, said = torch.randn(6, 16), torch.eye(6).bool()
    tokens = torch.randn(6, 2, 16, requires_grad=True)
    optimizer = torch.optim.Adam([tokens], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        spoken_loss(tokens, words, said, 0.07).backward()
        optimizer.step()
    close = torch.cosine_similarity(tokens.detach()[:, :, None], words, -1).amax(1)
    assert (close.argmax(1) == torch.arange(6)).all()


class Spliced(torch.nn.Module):
    """An affine connector beside embeddings of 12 words."""

    def __init__(self) -> None:
        super().__init__()
        self.connector = torch.nn.Linear(6, 16)
        self.language = torch.nn.Module()
        self.language.embed_tokens = torch.nn.Embedding(12, 16)

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        raise AssertionError("features are given")


def test_cells_learn_to_say_their_words_and_no_others() -> None:
    torch.manual_seed(0)
    module, features = Spliced(), torch.randn(2, 3, 6)
    labels = torch.tensor([[[5, 7], [0, -100], [8, -100]], [[0, -100], [9, 7], [0, -100]]])
    batch, objective = Batch(features=features, labels=labels), SpokenCells(length=0.0).build()
    tokens, table = module.connector(features), module.language.embed_tokens.weight
    near = torch.cosine_similarity(tokens[:, :, None], table - table.mean(0), -1) / 0.07
    spoken = near - near.exp().sum(-1, keepdim=True).log()
    words = (spoken[0, 0, 5] + spoken[0, 0, 7]) / 2 + (spoken[1, 1, 9] + spoken[1, 1, 7]) / 2 + spoken[0, 2, 8]
    empty = spoken[0, 1, 0] + spoken[1, 0, 0] + spoken[1, 2, 0]
    assert objective(module, batch)["loss"].item() == pytest.approx(-(words + empty).item() / 3, rel=1e-4)
    optimizer = torch.optim.Adam(module.connector.parameters(), lr=0.03)
    for _ in range(100):
        optimizer.zero_grad()
        losses = objective(module, batch)
        losses["loss"].backward()
        optimizer.step()
    assert losses["named"] == 1 and losses["loss"] < 2.5
    assert module.language.embed_tokens.weight.grad is None
