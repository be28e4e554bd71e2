"""Alignment: the loss against a loop over cells, word vectors and phrases."""

import torch
import torch.nn.functional as F

from chiasm.objectives.alignment import alignment_loss, phrase_vectors, word_vectors


def test_loss_equals_a_loop_over_cells():
    torch.manual_seed(0)
    what, where = torch.randn(2, 4, 6, requires_grad=True), torch.randn(2, 4, 3, requires_grad=True)
    cells = torch.tensor([[[-1, -1], [2, 0], [-1, -1], [4, 2]], [[0, 1], [-1, -1], [-1, -1], [-1, -1]]])
    slow, things = torch.zeros(()), 3
    for i, row in enumerate(cells.tolist()):
        for j, (name, place) in enumerate(row):
            slow = slow - what[i, j].log_softmax(0)[name if name >= 0 else 5] / things
            if name >= 0:
                slow = slow - 0.5 * where[i, j].log_softmax(0)[place] / things
    fast = alignment_loss([what, where], cells, (0.5,))
    torch.testing.assert_close(fast, slow)
    for mine, theirs in zip(
        torch.autograd.grad(fast, (what, where)), torch.autograd.grad(slow, (what, where)), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_word_vectors_are_centred_unit_means():
    table = torch.randn(20, 6)
    vectors = word_vectors(table, [[[3]], [[1, 2], [4]]])
    center = table.mean(0)
    torch.testing.assert_close(vectors[0], F.normalize(table[3] - center, dim=0))
    pair = F.normalize(table[[1, 2]].mean(0) - center, dim=0) + F.normalize(table[4] - center, dim=0)
    torch.testing.assert_close(vectors[1], F.normalize(pair, dim=0))


def test_phrases_are_filled_and_shortened():
    table = torch.randn(20, 6)
    phrases = phrase_vectors(table, [[3], [4, 5], [6, 7, 8]], 2, filler=9)
    torch.testing.assert_close(phrases[0], table[[3, 9]])
    torch.testing.assert_close(phrases[1], table[[4, 5]])
    torch.testing.assert_close(phrases[2], torch.stack((table[6], table[[7, 8]].mean(0))))
    torch.testing.assert_close(phrase_vectors(table, [[3]], 1, filler=9), table[[3]][None])
