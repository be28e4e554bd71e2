"""SC-NLM's training (Kiros et al. 2014, "VSE", §3.3): texts written back from their own place in the joint space.

    L = −1/N Σ_n log P(w_n | w_{n−context..n−1}, kinds from n on, u)

with u the text's own vector, which learns nothing here: no picture is looked at, and pictures are described all the
same afterwards, because their vectors lie where their texts' do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from chiasm.core.batch import Batch
from chiasm.objectives.config import ObjectiveConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class StructuredText(ObjectiveConfig):
    """The decoder's loss.

    Attributes:
        kinds: the kind of every word of the vocabulary, from 1.
    """

    takes: ClassVar[str | None] = "pairs"
    kinds: tuple[int, ...]

    def build(self) -> StructuredTextObjective:
        return StructuredTextObjective(self)


class StructuredTextObjective:
    """Rows of a batch have a text each, right-padded; the pictures beside them are not looked at."""

    def __init__(self, config: StructuredText) -> None:
        self.config = config

    def __call__(self, module: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The mean loss of a word."""
        ids, attend = batch.input_ids, batch.attention_mask
        assert ids is not None
        real = torch.ones_like(ids, dtype=torch.bool) if attend is None else attend
        with torch.no_grad():
            content = module.embed_texts(ids, attend)
        kinds = torch.tensor(self.config.kinds, device=ids.device)[ids].masked_fill(~real, 0)[:, 1:]
        logits = module.writer(ids, kinds, content).float()
        return {"loss": F.cross_entropy(logits[kinds > 0], ids[:, 1:][kinds > 0])}

    def after_step(self, module: Any, step: int) -> None:
        """Nothing moves."""
