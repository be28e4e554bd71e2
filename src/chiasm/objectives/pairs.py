"""Objectives of dual encoders: InfoNCE and the pairwise sigmoid loss on a module that embeds pictures and texts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from chiasm.core.batch import Batch
from chiasm.objectives.config import ObjectiveConfig
from chiasm.objectives.contrastive import info_nce, sigmoid_loss


@dataclass(frozen=True, kw_only=True, slots=True)
class InfoNCE(ObjectiveConfig):
    """CLIP's loss; the similarity's scale is kept at or below `most_scale` (Radford et al. 2021, §2.5)."""

    most_scale: float = 100.0

    def build(self) -> PairObjective:
        return PairObjective(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairwiseSigmoid(ObjectiveConfig):
    """SigLIP's loss."""

    def build(self) -> PairObjective:
        return PairObjective(self)


class PairObjective(nn.Module):
    """Rows of `batch` are pairs of a picture and a text; two rows with one text belong together."""

    def __init__(self, config: InfoNCE | PairwiseSigmoid) -> None:
        super().__init__()
        self.config = config

    def forward(self, module: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The loss of one batch."""
        assert batch.pixel_values is not None and batch.input_ids is not None
        images = module.embed_images(batch.pixel_values).float()
        texts = module.embed_texts(batch.input_ids, batch.attention_mask).float()
        scale = module.logit_scale.exp()
        if isinstance(self.config, InfoNCE):
            return {"loss": info_nce(images, texts, scale)}
        return {"loss": sigmoid_loss(images, texts, scale, module.logit_bias)}

    def after_step(self, module: Any, step: int) -> None:
        """Keep the similarity's scale in its range."""
        if isinstance(self.config, InfoNCE):
            with torch.no_grad():
                module.logit_scale.clamp_(max=math.log(self.config.most_scale))
