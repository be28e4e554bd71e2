"""Vision towers at native resolution: patches of all pictures in one packed row, no padding anywhere.

* Qwen2-VL (Wang et al. 2024, §2.1): patches of 2 frames × 14 × 14 pixels, rotary positions in two dimensions, every
  picture (every pair of frames) attending to itself.
* Qwen2.5-VL (Bai et al. 2025, §2.1): the same with RMSNorm, SwiGLU and windows of 112 pixels in most layers.
* MoonViT (Kimi-VL 2025, §2.1): SigLIP's tower with its learned grid of positions interpolated to each picture's
  grid, and interleaved rotary positions beside them.

Attention runs by index (`masks.run_mask`): a window or a picture is one run of the row, and runs of equal length
share a kernel call. Patches come in the order of the merger, the 2×2 patches of one visual token side by side, and
stay so throughout.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from chiasm.nn.attention import AttentionConfig
from chiasm.nn.blocks import Block, BlockConfig
from chiasm.nn.masks import AttentionMask, run_mask
from chiasm.nn.mlp import GatedMLPConfig, MLPConfig
from chiasm.nn.norms import RMSNorm
from chiasm.nn.positions import axial_tables, resize_grid

Grid = tuple[int, int, int]
Tables = tuple[torch.Tensor, torch.Tensor]  # (1, 1, P, C) each
CPU_ROW = 1024  # patches


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowConfig:
    """Attention in windows, but for a few layers.

    Attributes:
        side: pixels of a window's side.
        full_layers: indices of the layers that see the whole picture.
    """

    side: int = 112
    full_layers: tuple[int, ...] = (7, 15, 23, 31)


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeViTConfig:
    """A ViT that takes any number of patches.

    Attributes:
        patch_size, frames: pixels of a patch's side, and frames it spans.
        hidden_dim, num_layers, num_heads, mlp_dim: D, L, H, M.
        act: activation name.
        norm_eps: ε of every norm.
        merge: patches along one side of a visual token.
        rms_norm: RMSNorm and a gated MLP (Qwen2.5-VL), not LayerNorm and a plain one.
        patch_bias: whether the patch projection has a bias.
        learned_grid: side of a learned grid of positions (MoonViT); 0 = rotary positions alone.
        interleaved: rotary pairs alternate between column and row (MoonViT).
        final_norm: a norm after the last block (MoonViT).
        window: attention in windows; None = every layer sees the whole picture.
    """

    patch_size: int = 14
    frames: int = 2
    hidden_dim: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    act: str
    norm_eps: float = 1e-6
    merge: int = 2
    rms_norm: bool = False
    patch_bias: bool = False
    learned_grid: int = 0
    interleaved: bool = False
    final_norm: bool = False
    window: WindowConfig | None = None

    @property
    def patch_dim(self) -> int:
        """Numbers of one patch."""
        return 3 * self.frames * self.patch_size**2

    def block(self) -> BlockConfig:
        mlp: GatedMLPConfig | MLPConfig = MLPConfig(
            input_dim=self.hidden_dim, hidden_dim=self.mlp_dim, act=self.act, bias=True
        )
        if self.rms_norm:
            mlp = GatedMLPConfig(input_dim=self.hidden_dim, hidden_dim=self.mlp_dim, act=self.act, bias=True)
        attention = AttentionConfig(hidden_dim=self.hidden_dim, num_heads=self.num_heads)
        return BlockConfig(attention=attention, mlp=mlp, norm_eps=self.norm_eps, rms_norm=self.rms_norm)

    def build(self) -> NativeViT:
        return NativeViT(self)


class NativeViT(nn.Module):
    """Packed patches → packed features."""

    def __init__(self, config: NativeViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.Linear(config.patch_dim, config.hidden_dim, bias=config.patch_bias)
        side = config.learned_grid
        self.pos_embed = nn.Parameter(torch.zeros(side * side, config.hidden_dim)) if side else None
        self.blocks = nn.ModuleList(Block(config.block()) for _ in range(config.num_layers))
        self.norm_post: nn.Module = nn.Identity()
        if config.final_norm:
            norm = RMSNorm if config.rms_norm else nn.LayerNorm
            self.norm_post = norm(config.hidden_dim, eps=config.norm_eps)

    def init_weights(self) -> None:
        """Draw learned positions as the reference does."""
        if self.pos_embed is not None:
            nn.init.normal_(self.pos_embed, std=0.02)

    def forward(self, patches: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
        """Encode pictures and videos of any sizes at once.

        Args:
            patches: (P, patch_dim), each picture's patches in the merger's order.
            grids: (groups of frames, rows, columns) of patches of each picture.

        Returns:
            (P, D), in the same order.
        """
        rows = _rows(grids) if patches.device.type == "cpu" else [list(grids)]
        parts = patches.split([sum(t * h * w for t, h, w in row) for row in rows])
        encoded = [self._encode(part, row) for part, row in zip(parts, rows, strict=True)]
        return encoded[0] if len(encoded) == 1 else torch.cat(encoded)

    def _encode(self, patches: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
        config = self.config
        x = self.patch_embed(patches)
        rows, columns = merged_positions(grids, config.merge, x.device)
        if self.pos_embed is not None:
            x = x + self._learned(grids, rows, columns)
        head_dim = config.hidden_dim // config.num_heads
        cos, sin = axial_tables(rows, columns, head_dim, interleaved=config.interleaved)
        whole = run_mask([h * w for t, h, w in grids for _ in range(t)], x.device)
        if config.window is None:
            tables = (cos.to(x.dtype), sin.to(x.dtype))
            return self.norm_post(self._run(x, tables, range(config.num_layers), whole))
        order, lengths = window_order(grids, config.merge, config.window.side // config.patch_size)
        order = order.to(x.device)
        tables = (cos[:, :, order].to(x.dtype), sin[:, :, order].to(x.dtype))
        x = x[order]
        # windows of one picture stand together, so that whole pictures are runs of the reordered row as well
        for full, band in itertools.groupby(range(config.num_layers), set(config.window.full_layers).__contains__):
            layers = list(band)
            x = self._run(x, tables, layers, whole) if full else self._windows(x, tables, layers, lengths)
        return self.norm_post(x[order.argsort()])

    def _windows(self, x: torch.Tensor, tables: Tables, layers: Sequence[int], lengths: Sequence[int]) -> torch.Tensor:
        """Consecutive layers of windows, which see nothing of one another: on a CPU in turns that fit the cache."""
        groups = _groups(lengths) if x.device.type == "cpu" else [list(lengths)]
        sizes, (cos, sin) = [sum(group) for group in groups], tables
        pieces = zip(x.split(sizes), cos.split(sizes, 2), sin.split(sizes, 2), groups, strict=True)
        done = [self._run(part, (c, s), layers, run_mask(group, x.device)) for part, c, s, group in pieces]
        return done[0] if len(done) == 1 else torch.cat(done)

    def _run(self, x: torch.Tensor, tables: Tables, layers: Iterable[int], mask: AttentionMask) -> torch.Tensor:
        x = x[None]
        for layer in layers:
            x = self.blocks[layer](x, mask=mask, rotary=tables)
        return x[0]

    def _learned(self, grids: Sequence[Grid], rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        assert self.pos_embed is not None
        side, start, pieces = self.config.learned_grid, 0, []
        for t, h, w in grids:
            table = resize_grid(self.pos_embed, (side, side), (h, w))
            stop = start + t * h * w
            pieces.append(table[rows[start:stop] * w + columns[start:stop]])
            start = stop
        return torch.cat(pieces)


def _rows(grids: Sequence[Grid]) -> list[list[Grid]]:
    """Pictures in rows of about `CPU_ROW` patches: on a CPU, longer rows leave the cache (a tenth slower)."""
    left = iter(grids)
    groups = _groups([t * h * w for t, h, w in grids])
    return [list(itertools.islice(left, len(group))) for group in groups]


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Consecutive lengths in groups whose sums don't exceed `CPU_ROW`, unless one length alone does."""
    groups: list[list[int]] = [[]]
    for length in lengths:
        if groups[-1] and sum(groups[-1]) + length > CPU_ROW:
            groups.append([])
        groups[-1].append(length)
    return groups


def merged_positions(
    grids: Sequence[Grid], merge: int, device: torch.device | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of every patch, in the merger's order.

    Args:
        grids: (groups of frames, rows, columns) of patches of each picture.
        merge: patches along one side of a visual token.
        device: where they go.

    Returns:
        Two tensors (P,).
    """
    rows, columns = [], []
    for t, h, w in grids:
        y, x = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
        shape = (h // merge, merge, w // merge, merge)
        rows.append(y.reshape(shape).transpose(1, 2).flatten().repeat(t))
        columns.append(x.reshape(shape).transpose(1, 2).flatten().repeat(t))
    return torch.cat(rows), torch.cat(columns)


def window_order(grids: Sequence[Grid], merge: int, side: int) -> tuple[torch.Tensor, list[int]]:
    """How to bring the patches of each window together.

    Args:
        grids: (groups of frames, rows, columns) of patches of each picture.
        merge: patches along one side of a visual token; tokens stay whole.
        side: patches along one side of a window; windows at the right and bottom edges are smaller.

    Returns:
        (P,) where each patch of the new order stands in the old one, and the number of patches of each window.
    """
    orders, lengths, start, unit = [], [], 0, merge * merge
    step = side // merge
    for t, h, w in grids:
        tall, wide = h // merge, w // merge
        index = torch.arange(t * tall * wide).view(t, tall, wide)
        for frame in index:
            for top in range(0, tall, step):
                for left in range(0, wide, step):
                    window = frame[top : top + step, left : left + step].flatten()
                    orders.append(window + start)
                    lengths.append(len(window) * unit)
        start += t * tall * wide
    tokens = torch.cat(orders)
    return (tokens[:, None] * unit + torch.arange(unit)).flatten(), lengths
