"""Momentum copies and queues (He et al. 2020, "MoCo"; Li et al. 2021, "ALBEF", §3.2–3.3).

The copy follows the model after each step, θ_m ← m·θ_m + (1 − m)·θ; it says what the model should find alike:

    y = α·softmax(s_m / τ) + (1 − α)·1[same pair],   L = −Σ y · log softmax(s / τ)

with similarities s to the copy's embeddings of this batch, then of the queue's. Both directions count half.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.core.errors import ConfigError
from chiasm.objectives.precision import in_float32


def momentum_copy(module: nn.Module) -> nn.Module:
    """A copy whose weights are buffers: it learns nothing by itself, is in no optimizer, and is stored."""
    twin = copy.deepcopy(module)
    for part in twin.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            del part._parameters[name]
            part.register_buffer(name, parameter.detach().clone())
    return twin.train(False)


@torch.no_grad()
def follow(twin: nn.Module, module: nn.Module, momentum: float) -> None:
    """θ_m ← m·θ_m + (1 − m)·θ for every weight; running statistics are taken over.

    Args:
        twin: from `momentum_copy`.
        module: what it follows.
        momentum: m.
    """
    theirs = dict(twin.named_buffers(remove_duplicate=False))
    for name, parameter in module.named_parameters(remove_duplicate=False):
        theirs[name].lerp_(parameter.detach().to(theirs[name].dtype), 1 - momentum)
    for name, buffer in module.named_buffers():
        theirs[name].copy_(buffer)


class EmbeddingQueue(nn.Module):
    """The last Q pairs of embeddings, oldest overwritten first; off the graph, and as large at every step.

    Args:
        dim: E.
        size: Q.

    Raises:
        ConfigError: Q below 1.
    """

    images: torch.Tensor
    texts: torch.Tensor
    pointer: torch.Tensor

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        if size < 1:
            raise ConfigError("queue_size", f"a queue of {size} pairs; at least 1 is needed")
        self.register_buffer("images", F.normalize(torch.randn(size, dim), dim=-1))
        self.register_buffer("texts", F.normalize(torch.randn(size, dim), dim=-1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, images: torch.Tensor, texts: torch.Tensor) -> None:
        """Store a batch: (B, E) each; of a batch larger than the queue, the last Q pairs."""
        size = len(self.images)
        count = min(len(images), size)
        where = (self.pointer + torch.arange(count, device=self.images.device)) % size
        self.images[where] = images[-count:].detach().to(self.images.dtype)
        self.texts[where] = texts[-count:].detach().to(self.texts.dtype)
        self.pointer.copy_((self.pointer + count) % size)


@in_float32
def distilled_contrast(
    images: torch.Tensor,
    texts: torch.Tensor,
    images_m: torch.Tensor,
    texts_m: torch.Tensor,
    queue: EmbeddingQueue | None,
    temperature: torch.Tensor | float,
    alpha: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Contrast with soft targets.

    Args:
        images, texts: (B, E) the model's, L2-normalised.
        images_m, texts_m: (B, E) the copy's.
        queue: older pairs of the copy; None = this batch alone.
        temperature: τ.
        alpha: the soft targets' share.

    Returns:
        The loss, and the similarities over τ of this batch: (B, B) pictures to texts, (B, B) texts to pictures.
    """
    batch = len(images)
    all_images = images_m if queue is None else torch.cat((images_m, queue.images.clone()))
    all_texts = texts_m if queue is None else torch.cat((texts_m, queue.texts.clone()))
    to_texts, to_images = images @ all_texts.T / temperature, texts @ all_images.T / temperature
    with torch.no_grad():
        hard = torch.eye(batch, len(all_texts), device=images.device)
        soft_texts = alpha * (images_m @ all_texts.T / temperature).softmax(1) + (1 - alpha) * hard
        soft_images = alpha * (texts_m @ all_images.T / temperature).softmax(1) + (1 - alpha) * hard
    loss = (F.cross_entropy(to_texts, soft_texts) + F.cross_entropy(to_images, soft_images)) / 2
    return loss, to_texts[:, :batch], to_images[:, :batch]


def distilled_words(
    logits: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, alpha: float, ignored: int = -100
) -> torch.Tensor:
    """Cross-entropy of words, mixed with that against the copy's guesses (ALBEF, eq. 7).

    Args:
        logits: (B, T, V).
        teacher: (B, T, V) the copy's, no gradient.
        labels: (B, T), aligned with the logits; -100 where nothing is asked.
        alpha: the copy's share.
        ignored: the label that no loss looks at.

    Returns:
        The mean over asked words.
    """
    asked = labels != ignored
    chosen = logits[asked].float()
    hard = F.cross_entropy(chosen, labels[asked])
    soft = F.cross_entropy(chosen, teacher[asked].float().softmax(-1))
    return (1 - alpha) * hard + alpha * soft


def ramp(alpha: float, step: int, steps: int) -> float:
    """α grown from 0 over the first steps, as both systems do over their first epochs."""
    return alpha if steps < 1 else alpha * min(1.0, step / steps)


def clamp_temperature(module: Any, least: float = 0.001, most: float = 0.5) -> None:
    """Keep a learned temperature in its range."""
    if isinstance(getattr(module, "temperature", None), torch.Tensor):
        with torch.no_grad():
            module.temperature.clamp_(least, most)
