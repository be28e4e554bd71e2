"""Single-stream fusion: words and patches side by side in one transformer (Kim et al. 2021, "ViLT", §3.1, fig. 3).

Pictures keep their shape: the learned grid of positions is resampled to each picture's own rows and columns, and what
a batch pads at the right and bottom is masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.nn.attention import AttentionConfig
from chiasm.nn.blocks import Block, BlockConfig
from chiasm.nn.masks import attention_mask, real_tokens
from chiasm.nn.mlp import MLPConfig
from chiasm.vision.cells import CellTower, CellTowerConfig, Standardised


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleStreamConfig:
    """One transformer for words and patches.

    Attributes:
        vocab_size, context_length, num_types: of the text; V, most tokens, segment kinds.
        image_size, patch_size: pixels; the first is what the grid of positions was trained at.
        num_modalities: kinds of input told apart: the text, the first picture, the second.
        hidden_dim, num_layers, num_heads, mlp_dim: D, L, H, M.
        max_patches: most patches a picture keeps in training, drawn at random; None = all.
        act, norm_eps: activation, ε of every LayerNorm.
        trunk: cells of a frozen network stand in for patches of pixels; its `image_size` and cells are the ones above.
    """

    vocab_size: int
    context_length: int
    image_size: int
    patch_size: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    num_types: int = 2
    num_modalities: int = 2
    max_patches: int | None = None
    act: str = "gelu"
    norm_eps: float = 1e-12
    trunk: CellTowerConfig | None = None

    @property
    def grid(self) -> int:
        """Rows of the learned grid of positions."""
        return self.image_size // self.patch_size

    def block(self) -> BlockConfig:
        return BlockConfig(
            attention=AttentionConfig(hidden_dim=self.hidden_dim, num_heads=self.num_heads),
            mlp=MLPConfig(input_dim=self.hidden_dim, hidden_dim=self.mlp_dim, act=self.act),
            norm_eps=self.norm_eps,
        )

    def build(self) -> SingleStream:
        return SingleStream(self)


class WordEmbedding(nn.Module):
    """BERT's input layer: token, place and segment kind, normalised."""

    def __init__(self, config: SingleStreamConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.token_embed = nn.Embedding(config.vocab_size, width)
        self.pos_embed = nn.Parameter(torch.zeros(config.context_length, width))
        self.type_embed = nn.Parameter(torch.zeros(config.num_types, width))
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, T) → (B, T, D)."""
        return self.norm(self.token_embed(ids) + self.type_embed[0] + self.pos_embed[: ids.shape[1]])


class PatchEmbedding(nn.Module):
    """Patches of pictures of any shape, with resampled positions, a class token first."""

    def __init__(self, config: SingleStreamConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.hidden_dim, config.patch_size
        self.proj = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(width))
        self.pos_embed = nn.Parameter(torch.zeros(config.grid**2 + 1, width))

    def forward(
        self, pixels: torch.Tensor, grids: Sequence[tuple[int, int]] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed.

        Args:
            pixels: (B, 3, h, w), padded at the right and bottom.
            grids: (rows, columns) of real patches a picture; None = all are.

        Returns:
            (B, 1 + P, D), and (B, 1 + P) bool, True = real.
        """
        x = self.proj(pixels)  # (B, D, rows, columns)
        rows, columns = x.shape[2:]
        grids = grids or [(rows, columns)] * len(x)
        places = torch.stack([F.pad(self.places(*g), (0, columns - g[1], 0, rows - g[0])) for g in grids])
        real = torch.stack([_corner(rows, columns, *g, x.device) for g in grids]).flatten(1)  # (B, P)
        x = (x + places).flatten(2).transpose(1, 2)  # (B, P, D)
        if self.training and self.config.max_patches is not None:
            x, real = _draw(x, real, self.config.max_patches)
        first = (self.cls_token + self.pos_embed[0]).expand(len(x), 1, -1)
        return torch.cat((first, x), 1), F.pad(real, (1, 0), value=True)

    def places(self, rows: int, columns: int) -> torch.Tensor:
        """The grid of positions resampled to (D, rows, columns)."""
        side = self.config.grid
        grid = self.pos_embed[1:].T.reshape(1, -1, side, side)
        return F.interpolate(grid, size=(rows, columns), mode="bilinear", align_corners=True)[0]


class CellEmbedding(nn.Module):
    """Cells of a frozen network, which carry their positions, a class token first."""

    def __init__(self, config: SingleStreamConfig) -> None:
        super().__init__()
        assert config.trunk is not None
        self.trunk: CellTower = config.trunk.build()
        self.standard = Standardised(config.trunk)
        self.proj = nn.Linear(config.trunk.hidden_dim, config.hidden_dim)
        self.cls_token = nn.Parameter(torch.zeros(config.hidden_dim))

    def forward(
        self, cells: torch.Tensor, grids: Sequence[tuple[int, int]] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, P, trunk's D) cells → (B, 1 + P, D), and (B, 1 + P) bool, all of them real."""
        x = torch.cat((self.cls_token.expand(len(cells), 1, -1), self.proj(self.standard(cells))), 1)
        return x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)


class SingleStream(nn.Module):
    """Words and patches → states of both, and one pooled vector."""

    def __init__(self, config: SingleStreamConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_dim
        self.vision = PatchEmbedding(config) if config.trunk is None else CellEmbedding(config)
        self.language = WordEmbedding(config)
        self.modality_embed = nn.Parameter(torch.zeros(config.num_modalities, width))
        self.blocks = nn.ModuleList(Block(config.block()) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)

    def init_weights(self) -> None:
        """Draw as the reference does: normal, deviation 0.02, no bias."""
        tables = [self.vision.cls_token, self.modality_embed]
        if isinstance(self.vision, PatchEmbedding):
            tables.append(self.vision.pos_embed)
        for table in (*tables, self.language.token_embed.weight, self.language.pos_embed, self.language.type_embed):
            nn.init.normal_(table, std=0.02)
        for part in self.blocks.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def forward(
        self,
        ids: torch.Tensor,
        attend: torch.Tensor | None,
        pictures: torch.Tensor,
        grids: Sequence[tuple[int, int]] | None = None,
        modality: int = 1,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Read both.

        Args:
            ids: (B, T), padded on the right.
            attend: (B, T) bool; None = no padding.
            pictures, grids: see `PatchEmbedding.forward`, or `CellEmbedding.forward`.
            modality: which kind of input the picture is, from 1.

        Returns:
            (B, T, D) of the words, (B, 1 + P, D) of the patches, (B, 1 + P) which patches are real.
        """
        words = self.language(ids) + self.modality_embed[0]
        patches, real = self.vision(pictures, grids)
        patches = patches + self.modality_embed[modality]
        given = torch.ones_like(ids, dtype=torch.bool) if attend is None else attend
        seen = real_tokens(torch.cat((given, real), 1))
        x = torch.cat((words, patches), 1)
        mask = attention_mask(seen, causal=False, queries=x.shape[1], keys=x.shape[1])
        for block in self.blocks:
            x = block(x, mask=mask)
        x = self.norm(x)
        return x[:, : ids.shape[1]], x[:, ids.shape[1] :], real


def _corner(rows: int, columns: int, real_rows: int, real_columns: int, device: torch.device) -> torch.Tensor:
    real = torch.zeros(rows, columns, dtype=torch.bool, device=device)
    real[:real_rows, :real_columns] = True
    return real


def _draw(x: torch.Tensor, real: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """At most so many real patches a picture, drawn at random."""
    if x.shape[1] <= most:
        return x, real
    order = torch.rand(real.shape, device=x.device).masked_fill(~real, 2.0).argsort(1)[:, :most]  # (B, most)
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[2])), real.gather(1, order)
