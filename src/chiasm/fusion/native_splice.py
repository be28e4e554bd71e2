"""Splice fusion of towers at native resolution, and the positions of M-RoPE.

M-RoPE (Wang et al. 2024, Qwen2-VL, §2.1): a text token has one position on all three axes. A picture's or video's
tokens have time, row and column, counted from the position where it begins; what follows goes on after the largest
of them. Qwen2.5-VL (Bai et al. 2025, §2.1.2) makes the time absolute: `tokens_per_second` positions a second.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from chiasm.core.batch import Batch, ImageSpan
from chiasm.core.plan import ImagePlan
from chiasm.fusion.splice import SplicedLM
from chiasm.vision.native import Grid, NativeViT


class NativeSplicedLM(SplicedLM):
    """vision → connector → language, over pictures of any size in one packed row of patches."""

    vision: NativeViT

    def grids(self, plans: Sequence[ImagePlan]) -> list[Grid]:
        """(groups of frames, rows, columns) of patches of each picture."""
        merge = self.vision.config.merge
        return [(plan.steps, plan.tokens[0] * merge, plan.tokens[1] * merge) for plan in plans]

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Not to be had without the pictures' shapes: `encode_images` has them."""
        raise AssertionError("a native tower needs plans: call encode_images")

    def encode_images(self, pixels: torch.Tensor, plans: list[ImagePlan] | tuple[ImagePlan, ...]) -> list[torch.Tensor]:
        """Encode pictures and videos.

        Args:
            pixels: (P, patch_dim), every patch of every picture in reading order.
            plans: one a picture.

        Returns:
            One (N, D) tensor a picture.
        """
        pixels = pixels.to(self.language.embed_tokens.weight.dtype)
        return self.connect(self.vision(pixels, self.grids(plans)), plans)

    def pieces(self, batch: Batch) -> list[torch.Tensor]:
        """`pixel_values` (P, patch_dim) cut into one tensor a picture or video."""
        assert batch.pixel_values is not None
        return list(
            batch.pixel_values.split([steps * rows * columns for steps, rows, columns in self.grids(batch.plans)])
        )

    def connect(self, features: torch.Tensor, plans: list[ImagePlan] | tuple[ImagePlan, ...]) -> list[torch.Tensor]:
        """(P, D) features of the tower → one (N, D) tensor a picture; arguments as for `encode_images`."""
        return list(self.connector(features).split([plan.num_tokens for plan in plans]))


def multimodal_positions(
    base: torch.Tensor,
    batch: Batch,
    *,
    tokens_per_second: float | None,
    past_time: bool,
) -> torch.Tensor:
    """Time, row and column of every token.

    Args:
        base: (B, T) the positions that text alone would have.
        batch: its spans and plans say where pictures and videos stand; `segments` and `trunks` which texts a packed
            row holds.
        tokens_per_second: positions of a second of video; None = one position a group of frames.
        past_time: text after a video goes on behind its last moment too, not only behind its rows and columns.

    Returns:
        (3, B, T).
    """
    positions = base[None].repeat(3, 1, 1)
    for span, plan in zip(batch.spans, batch.plans, strict=True):
        start = int(positions[0, span.row, span.start])
        time, rows, columns = _grid(plan, tokens_per_second, base.device)
        if len(rows) == span.stop - span.start:  # a mismatch is told by the splice, with both numbers
            positions[:, span.row, span.start : span.stop] = torch.stack((time, rows, columns)) + start
        taken = max(plan.tokens)
        if past_time and len(time):
            taken = max(taken, int(time[-1]) + 1)
        positions[:, span.row, following(batch, span)] -= plan.num_tokens - taken
    return positions


def counted(base: torch.Tensor | None, batch: Batch) -> torch.Tensor:
    """(B, T) positions of a batch: those that are known, else one after the other."""
    if base is not None:
        return base
    assert batch.input_ids is not None
    rows, length = batch.input_ids.shape
    return torch.arange(length, device=batch.input_ids.device).expand(rows, -1)


def following(batch: Batch, span: ImageSpan) -> torch.Tensor:
    """(T,) bool: the tokens of a picture's row whose positions count on from it."""
    assert batch.input_ids is not None
    later = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device) >= span.stop
    if batch.segments is None:
        return later
    own = batch.segments[span.row, span.start]
    follows = batch.segments[span.row] == own
    if batch.trunks is not None:
        follows |= batch.trunks[span.row] == own
    return later & follows


def _grid(
    plan: ImagePlan, tokens_per_second: float | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    steps, (tall, wide) = torch.arange(plan.steps, device=device), plan.tokens
    if tokens_per_second is not None and plan.is_video:
        # rounded first, because 1/3 · 3 must not fall below 1
        steps = (steps.double() * round(tokens_per_second * plan.step_seconds, 9) + 1e-9).long()
    one = torch.ones(plan.steps, tall, wide, dtype=torch.long, device=device)
    rows, columns = torch.arange(tall, device=device)[:, None], torch.arange(wide, device=device)
    return (one * steps[:, None, None]).flatten(), (one * rows).flatten(), (one * columns).flatten()
