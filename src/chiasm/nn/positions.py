"""Positions: rotary embedding in one dimension, and interpolation of learned grids.

Rotary embedding (Su et al. 2021, §3.2.2) in the half-split layout of published LLaMA checkpoints: feature
pair (c, c + C/2) turns by position · θ^(−2c/C).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from chiasm.nn.rotary_scaling import RotaryScaling


@dataclass(frozen=True, kw_only=True, slots=True)
class RotaryConfig:
    """Rotary positions.

    Attributes:
        theta: base of the frequencies.
        linear_factor: positions are divided by it (1.0 = as trained).
        scaling: how positions beyond the trained context turn; None = like all others.
    """

    theta: float = 10000.0
    linear_factor: float = 1.0
    scaling: RotaryScaling | None = None

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied by."""
        return 1.0 if self.scaling is None else self.scaling.attention_factor

    def key(self, length: int) -> int:
        """Sequences with equal keys have equal frequencies."""
        return 0 if self.scaling is None else self.scaling.key(length)

    @property
    def varies(self) -> bool:
        """Whether frequencies depend on a sequence's length."""
        return self.key(1) != self.key(1 << 40)

    def frequencies(self, head_dim: int, key: int = 0) -> torch.Tensor:
        """(C/2,) float32, radians per position, of sequences with a `key`."""
        exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
        plain = 1.0 / (self.theta**exponents) / self.linear_factor
        return plain if self.scaling is None else self.scaling.frequencies(plain, self.theta, key)


@dataclass(frozen=True, kw_only=True, slots=True)
class Llama3RotaryConfig(RotaryConfig):
    """Llama 3.1's long-context rule: low frequencies are slowed, high ones kept, a ramp between.

    Attributes:
        factor: how much the lowest frequencies are slowed.
        low_freq_factor, high_freq_factor: the ramp's ends, in turns per original context.
        original_context: tokens of the context before extension.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int

    def frequencies(self, head_dim: int, key: int = 0) -> torch.Tensor:
        """(C/2,) float32, radians per position."""
        # super() needs its arguments: slots=True makes the dataclass anew
        plain = super(Llama3RotaryConfig, self).frequencies(head_dim)
        turns = self.original_context * plain / (2 * math.pi)
        smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        mixed = (1 - smooth) * plain / self.factor + smooth * plain
        return torch.where(
            turns < self.low_freq_factor, plain / self.factor, torch.where(turns > self.high_freq_factor, plain, mixed)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MultimodalRotaryConfig(RotaryConfig):
    """M-RoPE (Wang et al. 2024, Qwen2-VL, §2.1): a token has a time, a row and a column.

    Attributes:
        sections: how many of the C/2 frequencies turn by time, row and column, in that order.
    """

    sections: tuple[int, int, int] = (16, 24, 24)


@dataclass(frozen=True, kw_only=True, slots=True)
class XPosConfig(RotaryConfig):
    """xPos (Sun et al. 2022, "A Length-Extrapolatable Transformer", §3.3, eq. 12): rotary positions that fade.

    A query at n is multiplied by ζ^(n/base), a key at m by ζ^(−m/base): their product fades with n − m, fast where the
    rotation is fast. ζ of pair c is (2c/C + γ) / (1 + γ). Positions aren't centred, so that cached keys stay as they
    are: at 2,048 tokens the factors lie within 1/150 and 150.

    Departure: attention in blocks, which the paper adds for texts longer than the training's, isn't built.

    Attributes:
        scale_base: tokens after which pair c has faded to ζ.
        gamma: γ.
    """

    scale_base: float = 512.0
    gamma: float = 0.4

    def fading(self, head_dim: int) -> torch.Tensor:
        """(C/2,) float32, ln ζ per position."""
        share = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
        return ((share + self.gamma) / (1 + self.gamma)).log() / self.scale_base


@dataclass(frozen=True, kw_only=True, slots=True)
class LogRotaryConfig(RotaryConfig):
    """Rotary positions whose queries grow with the logarithm of their place (LogN scaling; Bai et al. 2023, §2.3).

    The n-th token's query is multiplied by ln n / ln context once n is beyond the context, so that attention over more
    tokens isn't spread thinner than in training.

    Attributes:
        log_context: tokens of the context that it was trained in.
    """

    log_context: int

    def growth(self, positions: torch.Tensor) -> torch.Tensor:
        """(…) integer positions, from 0 → float32 factors of their queries."""
        return ((positions + 1).float().log() / math.log(self.log_context)).clamp(min=1.0)


def xpos_tables(
    positions: torch.Tensor, frequencies: torch.Tensor, fading: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    """Tables of xPos: as `rotary_tables`, first for queries, then for keys.

    Args:
        positions: (B, T) or (1, T) integer positions.
        frequencies: (C/2,) radians per position.
        fading: (C/2,) of `XPosConfig.fading`.
        dtype: type of the tables.

    Returns:
        Four tensors (B, 1, T, C): cosines and signed sines of queries, of keys.
    """
    cos, sin = rotary_tables(positions, frequencies, torch.float32)
    factor = (positions[:, None, :, None].float() * torch.cat((fading, fading))).exp()
    return tuple((table * by).to(dtype) for by in (factor, 1 / factor) for table in (cos, sin))


def rotary_tables(
    positions: torch.Tensor, frequencies: torch.Tensor, dtype: torch.dtype, magnitude: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of every position, computed once per forward pass and shared by all layers.

    Args:
        positions: (B, T) or (1, T) integer positions.
        frequencies: (C/2,) radians per position, or (B, C/2).
        dtype: type of the tables.
        magnitude: what cosines and sines are multiplied by.

    Returns:
        Two tensors (B, 1, T, C); the first half's sine is negated, see `rotate`.
    """
    by_row = frequencies if frequencies.dim() == 1 else frequencies[:, None, None]
    return _tables(positions[:, None, :, None].float() * by_row, dtype, magnitude)  # (B, 1, T, C/2)


def multimodal_tables(
    positions: torch.Tensor,
    frequencies: torch.Tensor,
    sections: tuple[int, ...],
    dtype: torch.dtype,
    magnitude: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tables of M-RoPE: the first frequencies turn by time, the next by row, the last by column.

    Args:
        positions: (3, B, T) integer time, row and column.
        frequencies: (C/2,) radians per position, or (B, C/2).
        sections: how many frequencies each axis has; they sum to C/2.
        dtype: type of the tables.
        magnitude: what cosines and sines are multiplied by.

    Returns:
        As `rotary_tables`.
    """
    by_row = frequencies if frequencies.dim() == 1 else frequencies[:, None, None]
    parts = by_row.split(list(sections), -1)
    angles = [axis[:, None, :, None].float() * part for axis, part in zip(positions, parts, strict=True)]
    return _tables(torch.cat(angles, -1), dtype, magnitude)


def axial_tables(
    rows: torch.Tensor, columns: torch.Tensor, head_dim: int, *, theta: float = 1e4, interleaved: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tables of rotary positions in two dimensions, for the patches of a vision tower.

    Args:
        rows, columns: (P,) integer positions.
        head_dim: C; C/4 frequencies serve both axes.
        theta: their base.
        interleaved: pairs turn by column, row, column, row… (MoonViT); else all rows first (Qwen2-VL).

    Returns:
        As `rotary_tables`, with B = 1, float32.
    """
    half = head_dim // 2
    frequencies = 1.0 / theta ** (torch.arange(0, half, 2, device=rows.device).float() / half)  # (C/4,)
    down, across = rows[:, None].float() * frequencies, columns[:, None].float() * frequencies
    angles = torch.stack((across, down), -1).flatten(1) if interleaved else torch.cat((down, across), -1)
    return _tables(angles[None, None], torch.float32)


def _tables(angles: torch.Tensor, dtype: torch.dtype, magnitude: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = angles.cos(), angles.sin()
    if magnitude != 1.0:
        cos, sin = cos * magnitude, sin * magnitude
    return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


def of_queries(tables: tuple[torch.Tensor, ...], keep: slice | torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Tables of which only some positions ask: first for these, then for all keys.

    Args:
        tables: (B or 1, 1, T, C) each, of `rotary_tables` or `xpos_tables`.
        keep: a slice of the positions, or one a row, (B,).

    Returns:
        Four tables; the first two (B or 1, 1, kept, C).
    """
    if isinstance(keep, slice):
        asking = tuple(table[:, :, keep] for table in tables[:2])
    else:
        rows = torch.arange(len(keep), device=keep.device)
        asking = tuple(table.expand(len(keep), -1, -1, -1)[rows, :, keep][:, :, None] for table in tables[:2])
    return (*asking, *tables[-2:])


def rotate(x: torch.Tensor, tables: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Turn queries or keys by their positions.

    Args:
        x: (B, H, T, C).
        tables: cosines and signed sines (B, 1, T, C) from `rotary_tables`.

    Returns:
        (B, H, T, C).
    """
    cos, signed_sin = tables
    # (x1, x2) → (x1 cos − x2 sin, x2 cos + x1 sin): swapping the halves needs no negation, the table has it
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), signed_sin)


def resize_grid(embedding: torch.Tensor, source: tuple[int, int], target: tuple[int, int]) -> torch.Tensor:
    """Interpolate a learned grid of positions to another grid (bicubic).

    Args:
        embedding: (rows·columns, D) in raster order.
        source: (rows, columns) it was learned on.
        target: (rows, columns) wanted.

    Returns:
        (target rows·columns, D).
    """
    if source == target:
        return embedding
    grid = embedding.reshape(1, *source, -1).permute(0, 3, 1, 2).float()  # (1, D, rows, columns)
    grid = F.interpolate(grid, size=target, mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1).reshape(target[0] * target[1], -1).to(embedding.dtype)


def sincos_grid(side: int, dim: int) -> torch.Tensor:
    """2D sine–cosine positions (side², D): half of the features tell the column, half the row.

    Each half is [sin, cos] of position · 10000^(−c/(D/4)).
    """
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat((angles.sin(), angles.cos()), 1)  # (side, D/2)
    columns, rows = line[None].expand(side, -1, -1), line[:, None].expand(-1, side, -1)
    return torch.cat((columns, rows), -1).flatten(0, 1).float()
