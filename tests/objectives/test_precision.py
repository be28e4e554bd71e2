"""Losses of similarities are float32's, whatever type a step runs in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from chiasm.objectives.contrastive import info_nce, sigmoid_loss
from chiasm.objectives.momentum import EmbeddingQueue, distilled_contrast
from chiasm.objectives.precision import in_float32
from chiasm.objectives.word_patch import word_patch_loss


def _pairs() -> tuple[torch.Tensor, torch.Tensor]:
    return F.normalize(torch.randn(6, 32), dim=-1), F.normalize(torch.randn(6, 32), dim=-1)


@pytest.mark.parametrize("name", ["info_nce", "sigmoid", "distilled", "words"])
def test_autocast_changes_no_bit_of_a_loss_of_float32_vectors(name: str) -> None:
    images, texts = _pairs()
    queue = EmbeddingQueue(32, 5)
    real = torch.ones(2, 3, dtype=torch.bool)
    losses = {
        "info_nce": lambda: info_nce(images, texts, 100.0),
        "sigmoid": lambda: sigmoid_loss(images, texts, 100.0, -10.0),
        "distilled": lambda: distilled_contrast(images, texts, images, texts, queue, 0.01, 0.4)[0],
        "words": lambda: word_patch_loss(
            images.view(2, 3, 32), texts.view(2, 3, 32), real, real, torch.tensor([True, False])
        ),
    }
    plain = losses[name]()
    with torch.autocast("cpu", torch.bfloat16):
        cast = losses[name]()
        rough = images @ texts.T
    assert cast.dtype == torch.float32 and torch.equal(cast, plain)
    assert (rough.float() - images @ texts.T).abs().max() > 1e-4  # what it would be otherwise


def test_halves_become_whole_and_gradients_reach_them() -> None:
    images, texts = (x.bfloat16().requires_grad_() for x in _pairs())
    with torch.autocast("cpu", torch.bfloat16):
        similarity = in_float32(lambda a, b: a @ b.T)(images, texts)
    similarity.sum().backward()
    assert similarity.dtype == torch.float32 and torch.equal(similarity, images.float() @ texts.float().T)
    assert images.grad is not None and images.grad.dtype == torch.bfloat16
