"""The dual encoder: two towers, one space, similarity by cosine (CLIP, fig. 3; SigLIP, alg. 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.core.batch import Batch


class DualEncoder(nn.Module):
    """A picture tower and a text tower that meet in E dimensions.

    Args:
        vision: (I, 3, h, w) pixels → (I, ·) one vector a picture.
        language: (B, T) ids and (B, T) mask → (B, ·) one vector a text.
        vision_proj, text_proj: to E dimensions; `nn.Identity()` where the tower already ends there.
        init_scale: logarithm of the similarity's first scale.
        init_bias: the similarity's first bias; None = no bias (CLIP).
    """

    def __init__(
        self,
        vision: nn.Module,
        language: nn.Module,
        vision_proj: nn.Module,
        text_proj: nn.Module,
        *,
        init_scale: float,
        init_bias: float | None = None,
    ) -> None:
        super().__init__()
        self.vision, self.language = vision, language
        self.vision_proj, self.text_proj = vision_proj, text_proj
        self.init_scale, self.init_bias = init_scale, init_bias
        self.logit_scale = nn.Parameter(torch.tensor(init_scale))
        self.logit_bias = None if init_bias is None else nn.Parameter(torch.tensor(init_bias))

    def init_weights(self) -> None:
        """Set the similarity's scale and bias to their first values."""
        nn.init.constant_(self.logit_scale, self.init_scale)
        if self.logit_bias is not None:
            nn.init.constant_(self.logit_bias, self.init_bias or 0.0)

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) pixels → (I, D), one vector a picture, before the projection."""
        return self.vision(pixels)

    def embed_features(self, features: torch.Tensor) -> torch.Tensor:
        """(I, D) of `visual_features` → (I, E), L2-normalised."""
        return F.normalize(self.vision_proj(features), dim=-1)

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) pixels → (I, E), L2-normalised."""
        return self.embed_features(self.visual_features(pixels))

    def embed_texts(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T) ids and their mask → (B, E), L2-normalised."""
        return F.normalize(self.text_proj(self.language(ids, attend)), dim=-1)

    def logits(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(I, E) and (B, E) embeddings → (I, B) similarities, scaled and biased."""
        scores = self.logit_scale.exp() * images @ texts.T
        return scores if self.logit_bias is None else scores + self.logit_bias

    def forward(self, batch: Batch) -> torch.Tensor:
        """Similarities of a batch's pictures and texts.

        Args:
            batch: see `embed`.

        Returns:
            (I, B) logits.
        """
        return self.logits(*self.embed(batch))

    def embed(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Both sides of a batch.

        Args:
            batch: `pixel_values` (I, 3, h, w), or `features` (I, D) of the vision tower, and `input_ids` (B, T).

        Returns:
            (I, E) pictures and (B, E) texts, L2-normalised.
        """
        assert batch.input_ids is not None
        if batch.features is not None:
            images = self.embed_features(batch.features.to(self.logit_scale.dtype))
        else:
            assert batch.pixel_values is not None
            images = self.embed_images(batch.pixel_values)
        return images, self.embed_texts(batch.input_ids, batch.attention_mask)
