"""Objectives of dual encoders: InfoNCE and the pairwise sigmoid loss on a module that embeds pictures and texts.

The batch is the global one: over several processes every picture meets the texts of all of them. `part` makes it larger
than memory (gradient caching, Gao et al. 2021, §3): only the embeddings of the whole batch are held, and each part is
computed a second time on the way back, with the same random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from chiasm.core.batch import Batch
from chiasm.core.errors import ConfigError, DataError
from chiasm.objectives.config import ObjectiveConfig
from chiasm.objectives.contrastive import info_nce, sigmoid_loss


@dataclass(frozen=True, kw_only=True, slots=True)
class InfoNCE(ObjectiveConfig):
    """CLIP's loss.

    Attributes:
        most_scale: the similarity's scale is kept at or below it (Radford et al. 2021, §2.5).
        smoothing: share of a target that is spread over all texts (ALIGN; Jia et al. 2021, §5).
        part: pairs that are embedded at a time; None = the whole batch at once.
    """

    takes: ClassVar[str | None] = "pairs"
    most_scale: float = 100.0
    smoothing: float = 0.0
    part: int | None = None

    def build(self) -> PairObjective:
        return PairObjective(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairwiseSigmoid(ObjectiveConfig):
    """SigLIP's loss.

    Attributes:
        alike: pictures with the same words belong to each other's words, too; on one process only.
        part: pairs that are embedded at a time; None = the whole batch at once.
    """

    takes: ClassVar[str | None] = "pairs"
    alike: bool = False
    part: int | None = None

    def build(self) -> PairObjective:
        return PairObjective(self)


class PairObjective(nn.Module):
    """Rows of a batch are pairs of a picture and a text; over several processes their batches are one."""

    def __init__(self, config: InfoNCE | PairwiseSigmoid) -> None:
        super().__init__()
        self.config = config

    def forward(self, module: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The loss of one batch.

        Raises:
            ConfigError: `alike` on several processes.
            DataError: a batch of one, over all processes.
        """
        assert batch.input_ids is not None
        if len(batch.input_ids) * _processes() < 2:
            raise DataError("batch_of_one", "a batch of 1 pair has no wrong pairs; at least 2 are needed")
        images, texts = embed_pairs(module, batch, self.config.part)
        scale = module.logit_scale.exp()
        if isinstance(self.config, InfoNCE):
            return {"loss": info_nce(images, texts, scale, smoothing=self.config.smoothing, gather=True)}
        same = _alike(batch.input_ids) if self.config.alike else None
        return {"loss": sigmoid_loss(images, texts, scale, module.logit_bias, same=same, gather=same is None)}

    def after_step(self, module: Any, step: int) -> None:
        """Keep the similarity's scale in its range."""
        if isinstance(self.config, InfoNCE):
            with torch.no_grad():
                module.logit_scale.clamp_(max=math.log(self.config.most_scale))


def embed_pictures(module: Any, batch: Batch) -> torch.Tensor:
    """The pictures of a batch, or a frozen tower's features of them → (B, E)."""
    see, pictures = _seen(module, batch)
    return see(pictures)


def embed_pairs(module: Any, batch: Batch, part: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Embed both sides of a batch.

    Args:
        module: see `core.protocols.Embedding`; `embed_features` where the batch holds features.
        batch: `pixel_values` or `features`, `input_ids` and `attention_mask`, row for row.
        part: rows whose inner states are held at a time; None = all.

    Returns:
        (B, E) pictures and (B, E) texts, float32.
    """
    assert batch.input_ids is not None
    if part is None:
        texts = module.embed_texts(batch.input_ids, batch.attention_mask)
        return embed_pictures(module, batch).float(), texts.float()
    see, pictures = _seen(module, batch)
    masks = [None] * len(batch.input_ids) if batch.attention_mask is None else batch.attention_mask.split(part)
    images = [checkpoint(see, some, use_reentrant=False) for some in pictures.split(part)]
    texts = [
        checkpoint(module.embed_texts, ids, mask, use_reentrant=False)
        for ids, mask in zip(batch.input_ids.split(part), masks, strict=False)
    ]
    return torch.cat(images).float(), torch.cat(texts).float()


def _seen(module: Any, batch: Batch) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]:
    see = module.embed_images if batch.features is None else module.embed_features
    pictures = batch.pixel_values if batch.features is None else batch.features
    assert pictures is not None
    return see, pictures


def _alike(ids: torch.Tensor) -> torch.Tensor:
    """(B, B), where two rows have the same words."""
    if (world := _processes()) > 1:
        what = f"objective.alike compares the words of one process's rows, there are {world} processes"
        raise ConfigError("alike_distributed", what, hint="--set objective.alike=false")
    return (ids[:, None] == ids[None]).all(-1)


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
