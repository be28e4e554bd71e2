"""InternVL's texts (Chen et al. 2023, §3.4): embedded as a summary, `summarize:` before them, and ended by a token of
their own; matched and written as they are."""

from __future__ import annotations

from collections.abc import Sequence

from chiasm.core.batch import Batch
from chiasm.processing.fusion import FusionProcessor

PROMPT = "summarize:"


class SummarisedProcessor(FusionProcessor):
    """Texts are embedded as summaries."""

    @property
    def wrapping(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids before and after every text; the published tokenizer's settings have no end, its code adds one."""
        before, after = self.tokenizer.wrapping
        end = self.tokenizer.eos_id
        return before, after or (() if end is None else (end,))

    def texts(self, texts: str | Sequence[str], *, truncate: bool = False) -> Batch:
        """Texts to embed; see `DualProcessor.texts`."""
        given = [texts] if isinstance(texts, str) else list(texts)
        return super().texts([PROMPT + text for text in given], truncate=truncate)


class SummarisedPairs(SummarisedProcessor):
    """Captions come twice: as they are matched and written, and in `instruction_ids` as they are embedded."""

    def captions(self, texts: str | Sequence[str], *, truncate: bool = False) -> Batch:
        """Texts that belong to pictures; see `DualProcessor.captions`."""
        summary, batch = (
            self.texts(texts, truncate=truncate),
            super(SummarisedProcessor, self).texts(texts, truncate=truncate),
        )
        batch.instruction_ids, batch.instruction_mask = summary.input_ids, summary.attention_mask
        return batch
