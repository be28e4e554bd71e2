"""ViLT's pretraining (Kim et al. 2021, §3.2–3.3): matching, masked words, and words laid on patches.

Half the pictures are swapped for another of the batch; the head tells which. Words are hidden, and laid on patches by
optimal transport, where picture and text belong together or don't, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from chiasm.core.batch import Batch
from chiasm.core.errors import DataError
from chiasm.objectives.config import ObjectiveConfig
from chiasm.objectives.fusion import MaskedText
from chiasm.objectives.masked import mask_words
from chiasm.objectives.word_patch import word_patch_loss


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchAndMask(ObjectiveConfig):
    """ViLT's loss.

    Attributes:
        text: how words are hidden.
        swapped: probability that a picture is another's.
        transport: weight of the words' cost.
    """

    text: MaskedText
    swapped: float = 0.5
    transport: float = 0.1

    def build(self) -> MatchAndMaskObjective:
        return MatchAndMaskObjective(self)


class MatchAndMaskObjective:
    """Rows of a batch are pairs of a picture and a text, right-padded."""

    def __init__(self, config: MatchAndMask) -> None:
        self.config = config

    def __call__(self, module: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The losses of one batch.

        Raises:
            DataError: a batch of one.
        """
        ids, attend = batch.input_ids, batch.attention_mask
        kind = "pixel_values" if batch.features is None else "features"
        pictures = getattr(batch, kind)
        assert ids is not None and pictures is not None
        rows = len(ids)
        if rows < 2:
            raise DataError("batch_of_one", f"a batch of {rows} pair has no wrong pairs; at least 2 are needed")
        other = (torch.arange(rows, device=ids.device) + torch.randint(1, rows, (rows,), device=ids.device)) % rows
        belongs = torch.rand(rows, device=ids.device) >= self.config.swapped
        chosen = torch.where(belongs, torch.arange(rows, device=ids.device), other)
        plans = tuple(batch.plans[row] for row in chosen.tolist()) if batch.plans else ()
        words, patches, real = module.states(replace(batch, plans=plans, **{kind: pictures[chosen]}))
        match = F.cross_entropy(module.match_scores(words).float(), belongs.long())
        maskable = ~torch.isin(ids, torch.tensor(self.config.text.control_ids, device=ids.device))
        maskable = maskable if attend is None else maskable & attend
        transport = word_patch_loss(words, patches[:, 1:], maskable, real[:, 1:], belongs)
        text = self.config.text
        hidden, labels = mask_words(
            ids, maskable, mask_id=text.mask_id, vocab_size=module.config.stream.vocab_size, share=text.share
        )
        scores = module.word_scores(module.states(replace(batch, input_ids=hidden))[0])
        asked = labels != -100
        guess = F.cross_entropy(scores[asked].float(), labels[asked]) if bool(asked.any()) else scores.sum() * 0
        loss = match + guess + self.config.transport * transport
        return {"loss": loss, "match": match, "words": guess, "transport": transport}

    def after_step(self, module: Any, step: int) -> None:
        """Nothing to do."""
