"""What `Model` does for families that embed: vectors of pictures, texts and sounds, likeness, zero-shot classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from chiasm.core.batch import Batch
from chiasm.core.errors import CapabilityError, PromptError
from chiasm.core.protocols import Embedding
from chiasm.models.judging import check_labels
from chiasm.nn.storage import number_type
from chiasm.processing.processor import DualProcessor

CHUNK = 32  # pictures or texts a forward pass: bounds memory, and larger gains nothing on two cores


@dataclass(frozen=True, slots=True)
class Embedder:
    """A model's towers and what prepares their input.

    Attributes:
        module, processor, device: the model's.
    """

    module: Embedding
    processor: DualProcessor
    device: torch.device

    def images(self, images: Sequence[Any]) -> torch.Tensor:
        """(N, E) of pictures; see `Model.embed_images`."""

        def embed(part: Sequence[Any]) -> torch.Tensor:
            pixels = self._ready(self.processor.images(part)).pixel_values
            assert pixels is not None
            return self.module.embed_images(pixels)

        return _chunked(images, embed)

    def texts(self, texts: Sequence[str], *, truncate: bool = False) -> torch.Tensor:
        """(N, E) of texts; see `Model.embed_texts`."""

        def embed(part: Sequence[str]) -> torch.Tensor:
            batch = self._ready(self.processor.texts(part, truncate=truncate))
            assert batch.input_ids is not None
            return self.module.embed_texts(batch.input_ids, batch.attention_mask)

        return _chunked(texts, embed)

    def sounds(self, sounds: Sequence[Any], rate: int | None, name: str) -> torch.Tensor:
        """(N, E) of sounds; see `Model.embed_sounds`. `name` is what a model without ears is called."""
        module, processor = self.module, self.processor
        if not (hasattr(module, "embed_kind") and hasattr(processor, "sounds")):
            what = f"{name} reads images and texts, not audio; the family imagebind does"
            raise CapabilityError("modality_missing", what, hint="chiasm models")

        def embed(part: Sequence[Any]) -> torch.Tensor:
            heard = processor.sounds(part, rate).to(self.device, number_type(module))
            vectors = module.embed_kind("audio", heard)
            return F.normalize(vectors, dim=-1)

        return _chunked(sounds, embed)

    @torch.inference_mode()
    def logits(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(images, texts) logits of vectors, scaled and biased as the family defines."""
        return self.module.logits(images.to(self.device), texts.to(self.device)).float().cpu()

    def classify(
        self, images: Sequence[Any], labels: Sequence[str], templates: Sequence[str]
    ) -> list[list[tuple[str, float]]]:
        """For each picture, (label, probability) from the most to the least probable; see `Model.classify`."""
        check_labels(labels, templates)
        texts = [template.replace("{}", label) for label in labels for template in templates]
        vectors = self.texts(texts).view(len(labels), len(templates), -1).mean(1)
        logits = self.logits(self.images(images), F.normalize(vectors, dim=-1))
        probabilities = logits.softmax(-1) if getattr(self.module, "logit_bias", None) is None else logits.sigmoid()
        return [sorted(zip(labels, row, strict=True), key=lambda pair: -pair[1]) for row in probabilities.tolist()]

    def _ready(self, batch: Batch) -> Batch:
        return batch.to(self.device, number_type(self.module))


@torch.inference_mode()
def _chunked(items: Sequence[Any], embed: Callable[[Sequence[Any]], torch.Tensor]) -> torch.Tensor:
    if not items:
        raise PromptError("nothing_to_embed", "0 items given, at least 1 needed")
    vectors = torch.cat([embed(items[at : at + CHUNK]) for at in range(0, len(items), CHUNK)])
    return (vectors if vectors.dtype == torch.float32 else F.normalize(vectors.float(), dim=-1)).cpu()
