"""Contrastive losses of two towers: InfoNCE (CLIP) and the pairwise sigmoid loss (SigLIP).

InfoNCE (Radford et al. 2021, fig. 3), for unit vectors x_i, y_i, scale t (already exponentiated) and s_ij = t x_i·y_j:
    L = -1/(2B) Σ_i [ log softmax_j(s_ij)_i + log softmax_j(s_ji)_i ]
Sigmoid (Zhai et al. 2023, alg. 1), with z_ij = 1 on the diagonal and -1 elsewhere and bias b:
    L = -1/B Σ_ij log σ(z_ij (t x_i·y_j + b))

`same` marks pairs off the diagonal that also belong together (two pictures with one caption, say): InfoNCE shares a
row's target among them evenly, the sigmoid loss takes them for positive. Without it both are the papers' losses.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def info_nce(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    scale: torch.Tensor | float,
    *,
    same: torch.Tensor | None = None,
) -> torch.Tensor:
    """The symmetric cross-entropy of matching every picture to its text and every text to its picture.

    Args:
        image_embeds: (B, E), L2-normalised.
        text_embeds: (B, E), L2-normalised; row i belongs to picture i.
        scale: the similarity's factor, `logit_scale.exp()`.
        same: (B, B) bool, True where picture i and text j belong together; the diagonal must be True. None = diagonal.

    Returns:
        The mean loss, a scalar.
    """
    logits = scale * image_embeds @ text_embeds.T  # (B, B)
    if same is None:
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    share = same.to(logits.dtype)
    rows = F.cross_entropy(logits, share / share.sum(1, keepdim=True))
    columns = F.cross_entropy(logits.T, share.T / share.T.sum(1, keepdim=True))
    return (rows + columns) / 2


def sigmoid_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    scale: torch.Tensor | float,
    bias: torch.Tensor | float,
    *,
    same: torch.Tensor | None = None,
) -> torch.Tensor:
    """The logistic loss of telling, for each of the B² pairs alone, whether it belongs together.

    Args:
        image_embeds, text_embeds, scale, same: see `info_nce`.
        bias: added to every similarity.

    Returns:
        The sum over pairs divided by B, a scalar.
    """
    logits = scale * image_embeds @ text_embeds.T + bias  # (B, B)
    if same is None:
        same = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    signs = torch.where(same, 1.0, -1.0).to(logits.dtype)
    return -F.logsigmoid(signs * logits).sum() / len(logits)
