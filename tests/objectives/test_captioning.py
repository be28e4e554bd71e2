"""The fast answer loss equals the plain one, gradients too."""

import torch

from chiasm.objectives.captioning import IGNORED, answer_loss, token_loss


def test_answer_loss_equals_token_loss():
    torch.manual_seed(0)
    head = torch.randn(11, 6, requires_grad=True)
    hidden = torch.randn(3, 7, 6, requires_grad=True)
    labels = torch.randint(0, 11, (3, 7))
    labels[torch.rand(3, 7) < 0.6] = IGNORED
    labels[1] = IGNORED
    labels[0, 0] = 4  # nothing predicts a first token
    labels[2, 5] = 3
    fast = answer_loss(hidden, labels, lambda h: h @ head.T)
    slow = token_loss(hidden @ head.T, labels)
    torch.testing.assert_close(fast, slow)
    for ours, theirs in zip(
        torch.autograd.grad(fast, (hidden, head)), torch.autograd.grad(slow, (hidden, head)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
