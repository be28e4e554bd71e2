"""Objectives of systems that align before they fuse: ALBEF (Li et al. 2021, §3) and BLIP (Li et al. 2022, §3.2).

One forward pass of the picture tower serves all terms: contrast with a momentum copy and a queue, matching with hard
negatives, and words, either masked (ALBEF) or written (BLIP).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.core.batch import Batch
from chiasm.core.errors import ConfigError, DataError
from chiasm.objectives.config import ObjectiveConfig
from chiasm.objectives.contrastive import info_nce
from chiasm.objectives.masked import mask_words
from chiasm.objectives.matching import matching_loss
from chiasm.objectives.momentum import (
    EmbeddingQueue,
    clamp_temperature,
    distilled_contrast,
    distilled_words,
    follow,
    momentum_copy,
    ramp,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedText:
    """Hidden words are found again, with the picture.

    Attributes:
        mask_id: what stands for a hidden word.
        control_ids: ids that are no words.
        share: probability that a word is hidden.
    """

    mask_id: int
    control_ids: tuple[int, ...]
    share: float = 0.15


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenText:
    """The caption is written, word by word.

    Attributes:
        start_id: what a caption begins with; None = the module's own `start_id`.
        smoothing: share of a target that is spread over all words.
    """

    start_id: int | None = None
    smoothing: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignAndFuse(ObjectiveConfig):
    """Contrast, matching, words.

    Attributes:
        text: how words are learned; None = not at all.
        queue_size: pairs that the queue holds; None = no queue.
        queue_from: the step from which on they count; a queue that counts before anything is learned hinders it.
        momentum: of the copy; None = no copy, and hard targets.
        alpha: share of the copy's soft targets.
        ramp_steps: steps over which that share grows from 0.
        floor: see `objectives.matching.hard_negatives`.
        matching: whether pairs are judged; without it and without words, contrast alone is left.
    """

    text: MaskedText | WrittenText | None = None
    queue_size: int | None = 65536
    queue_from: int = 0
    momentum: float | None = 0.995
    alpha: float = 0.4
    ramp_steps: int = 0
    floor: float = 0.0
    matching: bool = True

    def build(self) -> AlignAndFuseObjective:
        return AlignAndFuseObjective(self)


class AlignAndFuseObjective(nn.Module):
    """Holds the copy, the queue and the step number; the module does the reading."""

    step: torch.Tensor

    def __init__(self, config: AlignAndFuse) -> None:
        super().__init__()
        self.config = config
        self.twin: nn.Module | None = None
        self.queue: EmbeddingQueue | None = None
        self.fresh: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        if config.queue_size is not None and config.momentum is None:
            raise ConfigError("queue_without_copy", f"a queue of {config.queue_size} pairs needs a momentum copy")

    def prepare(self, module: Any, rows: int | None = None) -> None:
        """Make copy and queue, before the first step and before a checkpoint is read.

        Args:
            module: what will learn.
            rows: of the data set; None = unknown.

        Raises:
            ConfigError: ``queue_too_large``: a pair would stand in the queue beside itself.
        """
        size = self.config.queue_size
        if size is not None and rows is not None and size > rows:
            raise ConfigError(
                "queue_too_large",
                f"a queue of {size} pairs, a data set of {rows}",
                hint=f"--set objective.queue_size={rows // 2}",
            )
        device = next(module.parameters()).device
        if self.config.momentum is not None:
            self.twin = momentum_copy(module)
        if size is not None:
            self.queue = EmbeddingQueue(module.embed_dim, size).to(device)

    def forward(self, module: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The losses of one batch of pairs, right-padded.

        Raises:
            DataError: a batch of one.
        """
        assert batch.input_ids is not None
        if self.config.momentum is not None and self.twin is None:
            self.prepare(module)
        clamp_temperature(module)
        ids, attend = batch.input_ids, batch.attention_mask
        images, texts = module.picture_states(batch), module.read_texts(ids, attend)
        seen, said = module.project_images(images), module.project_texts(texts.states)
        alpha = ramp(self.config.alpha, int(self.step), self.config.ramp_steps) if self.twin is not None else 0.0
        images_m: torch.Tensor | None = None
        seen_m, said_m = seen, said
        if self.twin is not None:
            with torch.no_grad():
                twin: Any = self.twin
                images_m = twin.picture_states(batch)
                seen_m = twin.project_images(images_m)
                said_m = twin.project_texts(twin.read_texts(ids, attend).states)
                self.fresh.append((seen_m, said_m))
        queue = self.queue if int(self.step) >= self.config.queue_from else None
        contrast, to_texts, to_images = distilled_contrast(seen, said, seen_m, said_m, queue, module.temperature, alpha)
        losses, told = {"contrast": contrast}, {}
        if self.config.matching:
            floor = self.config.floor
            losses["match"], told["match_accuracy"] = matching_loss(module, texts, images, to_texts, to_images, floor)
        if isinstance(self.config.text, MaskedText):
            losses["words"] = self._masked(module, self.config.text, batch, images, images_m, alpha)
        elif isinstance(self.config.text, WrittenText):
            losses["words"] = self._written(module, self.config.text, batch, images)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses, **told}

    def after_step(self, module: Any, step: int) -> None:
        """The copy follows, and the batch joins the queue."""
        self.step.fill_(step)
        if self.twin is not None and self.config.momentum is not None:
            follow(self.twin, module, self.config.momentum)
        for pairs in self.fresh if self.queue is not None else ():
            assert self.queue is not None
            self.queue.push(*pairs)
        self.fresh.clear()

    def _masked(
        self,
        module: Any,
        text: MaskedText,
        batch: Batch,
        images: torch.Tensor,
        images_m: torch.Tensor | None,
        alpha: float,
    ) -> torch.Tensor:
        ids, attend = batch.input_ids, batch.attention_mask
        assert ids is not None
        control = torch.tensor(text.control_ids, device=ids.device)
        maskable = ~torch.isin(ids, control)
        maskable = maskable if attend is None else maskable & attend
        hidden, labels = mask_words(ids, maskable, mask_id=text.mask_id, vocab_size=module.vocab_size, share=text.share)
        if not bool((labels != -100).any()):
            return images.sum() * 0
        logits = module.word_scores(hidden, attend, images)
        if self.twin is None:
            return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        with torch.no_grad():
            twin: Any = self.twin
            teacher = twin.word_scores(hidden, attend, images_m)
        return distilled_words(logits, teacher, labels, alpha)

    def _written(self, module: Any, text: WrittenText, batch: Batch, images: torch.Tensor) -> torch.Tensor:
        ids, attend = batch.input_ids, batch.attention_mask
        assert ids is not None
        start = module.start_id if text.start_id is None else text.start_id
        ids = torch.cat((torch.full_like(ids[:, :1], start), ids[:, 1:]), 1)
        labels = ids[:, 1:] if attend is None else ids[:, 1:].masked_fill(~attend[:, 1:], -100)
        logits = module.write(ids, attend, images)[:, :-1]
        return F.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100, label_smoothing=text.smoothing
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastAndCaption(ObjectiveConfig):
    """CoCa's loss (Yu et al. 2022, eq. 4), from one pass: λ_con · InfoNCE + λ_cap · cross-entropy of the next word.

    Attributes:
        contrast, caption: the two weights.
    """

    contrast: float = 1.0
    caption: float = 2.0

    def build(self) -> ContrastAndCaptionObjective:
        return ContrastAndCaptionObjective(self)


class ContrastAndCaptionObjective:
    """Rows of a batch are pairs of a picture and a text, right-padded."""

    def __init__(self, config: ContrastAndCaption) -> None:
        self.config = config

    def __call__(self, module: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The losses of one batch.

        Raises:
            DataError: a batch of one.
        """
        ids, attend = batch.input_ids, batch.attention_mask
        assert ids is not None
        if len(ids) < 2:
            raise DataError("batch_of_one", f"a batch of {len(ids)} pair has no wrong pairs; at least 2 are needed")
        images, texts, logits = module.contrast_and_write(batch)
        contrast = info_nce(images.float(), texts.float(), module.logit_scale.exp())
        labels = ids[:, 1:] if attend is None else ids[:, 1:].masked_fill(~attend[:, 1:], -100)
        caption = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels.flatten(), ignore_index=-100)
        loss = self.config.contrast * contrast + self.config.caption * caption
        return {"loss": loss, "contrast": contrast, "caption": caption}

    def after_step(self, module: Any, step: int) -> None:
        """Nothing to do."""
