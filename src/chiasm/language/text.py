"""The text towers of CLIP and SigLIP: one pre-norm transformer, two ways to read a sentence off it.

CLIP (Radford et al. 2021, §2.4): causal, the state at the end-of-text token. SigLIP (Zhai et al. 2023):
bidirectional over the full padded length, the state at the last position.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chiasm.nn.attention import AttentionConfig
from chiasm.nn.blocks import Block, BlockConfig
from chiasm.nn.masks import AttentionMask, attention_mask
from chiasm.nn.mlp import MLPConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class EndOfTextPool:
    """The state at the end-of-text token, behind a causal mask.

    Attributes:
        token_id: its id; None = the largest id of the row (OpenAI's own rule, kept by older configs).
    """

    token_id: int | None

    causal = True

    def pick(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, T) ids → (B,) positions."""
        return (ids if self.token_id is None else (ids == self.token_id).int()).argmax(-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class LastTokenPool:
    """The state at the last position, every position seeing every other."""

    causal = False

    def pick(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, T) ids → (B,) positions."""
        return ids.new_full((ids.shape[0],), ids.shape[1] - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoderConfig:
    """A sentence encoder.

    Attributes:
        vocab_size, context_length: V and the most tokens it takes.
        hidden_dim, num_layers, num_heads, mlp_dim: D, L, H, M.
        act: activation name.
        norm_eps: ε of every LayerNorm.
        pool: which position is the sentence, and with it whether attention is causal.
    """

    vocab_size: int
    context_length: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    act: str
    norm_eps: float
    pool: EndOfTextPool | LastTokenPool

    def block(self) -> BlockConfig:
        return BlockConfig(
            attention=AttentionConfig(hidden_dim=self.hidden_dim, num_heads=self.num_heads),
            mlp=MLPConfig(input_dim=self.hidden_dim, hidden_dim=self.mlp_dim, act=self.act),
            norm_eps=self.norm_eps,
        )

    def build(self) -> TextEncoder:
        return TextEncoder(self)


class TextEncoder(nn.Module):
    """Token ids → one vector a sentence."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embed = nn.Embedding(config.vocab_size, config.hidden_dim)
        self.pos_embed = nn.Parameter(torch.zeros(config.context_length, config.hidden_dim))
        self.blocks = nn.ModuleList(Block(config.block()) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_dim, eps=config.norm_eps)

    def init_weights(self) -> None:
        """Draw embeddings as CLIP's reference does."""
        nn.init.normal_(self.token_embed.weight, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.01)

    def forward(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """One vector a sentence, normalised by the last norm, before any projection.

        Args:
            ids: (B, T), T at most `context_length`.
            attend: ignored: CLIP's pooled token stands before all padding, and SigLIP reads its padding.

        Returns:
            (B, D).
        """
        length = ids.shape[1]
        x = self.token_embed(ids) + self.pos_embed[:length]
        mask = attention_mask(None, causal=self.config.pool.causal, queries=length, keys=length)
        for block in self.blocks[:-1]:
            x = block(x, mask=mask)
        # one position leaves the last block: its other rows are never computed
        picked = self.config.pool.pick(ids)
        if self.config.pool.causal:
            seen = torch.arange(length, device=x.device) <= picked[:, None]  # (B, S)
            mask = AttentionMask(seen[:, None, None])
        return self.norm(self.blocks[-1](x, mask=mask, keep=picked)[:, 0])
