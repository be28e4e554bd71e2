"""Words said of pictures beside words said of others: the formula, what counts, what is left out."""

import math

import pytest
import torch

from chiasm.objectives.spoken import said_words, spoken_loss


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
