"""One further kind of input bound to pictures (Girdhar et al. 2023, "ImageBind", eq. 1, both ways).

    L = ½ (L_{I,M} + L_{M,I}),   L_{I,M} = −1/B Σ_i log( exp(s q_i·k_i) / Σ_j exp(s q_i·k_j) )

with the pictures' vectors q, those of the other kind k, and that kind's fixed scale s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from chiasm.core.batch import Batch
from chiasm.core.errors import DataError
from chiasm.objectives.config import ObjectiveConfig
from chiasm.objectives.pairs import embed_pictures
from chiasm.objectives.precision import in_float32


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundToPictures(ObjectiveConfig):
    """Contrast of pictures with one further kind.

    Attributes:
        kind: ``audio``, ``depth``, ``thermal`` or ``imu``.
    """

    takes: ClassVar[str | None] = "picture_sounds"
    kind: str = "audio"

    def build(self) -> BoundToPicturesObjective:
        return BoundToPicturesObjective(self)


class BoundToPicturesObjective:
    """Rows of a batch are pairs of a picture and an input of the kind."""

    def __init__(self, config: BoundToPictures) -> None:
        self.config = config

    def __call__(self, module: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The loss of one batch.

        Raises:
            DataError: a batch of one.
        """
        assert batch.others is not None
        if len(batch.others) < 2:
            raise DataError(
                "batch_of_one", f"a batch of {len(batch.others)} pair has no wrong pairs; at least 2 are needed"
            )
        images, kind = embed_pictures(module, batch), self.config.kind
        heard = module.embed_kind(kind, batch.others)
        logits = in_float32(module.kind_logits)(kind, images, heard)
        own = torch.arange(len(logits), device=logits.device)
        return {"loss": (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2}

    def after_step(self, module: Any, step: int) -> None:
        """Nothing moves: the scale is fixed."""
