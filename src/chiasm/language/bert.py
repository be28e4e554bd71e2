"""BERT's encoder (Devlin et al. 2019): learned positions, post-norm blocks, bidirectional attention.

Sentences are pooled by the mean over real tokens (Reimers & Gurevych 2019, §3), as the MiniLM sentence
encoders are used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chiasm.nn.attention import AttentionConfig
from chiasm.nn.blocks import BlockConfig, PostNormBlock
from chiasm.nn.masks import attention_mask, real_tokens
from chiasm.nn.mlp import MLPConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class BertConfig:
    """An encoder.

    Attributes:
        vocab_size, context_length, num_types: V, most tokens, segment kinds.
        hidden_dim, num_layers, num_heads, mlp_dim: D, L, H, M.
        act: activation name.
        norm_eps: ε of every LayerNorm.
        pooler: whether the checkpoint carries BERT's own [CLS] pooler (kept, not used for sentences).
    """

    vocab_size: int
    context_length: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    num_types: int = 2
    act: str = "gelu"
    norm_eps: float = 1e-12
    pooler: bool = False

    def block(self) -> BlockConfig:
        return BlockConfig(
            attention=AttentionConfig(hidden_dim=self.hidden_dim, num_heads=self.num_heads),
            mlp=MLPConfig(input_dim=self.hidden_dim, hidden_dim=self.mlp_dim, act=self.act),
            norm_eps=self.norm_eps,
        )

    def build(self) -> Bert:
        return Bert(self)


class Bert(nn.Module):
    """Token ids → states of all tokens, or one mean-pooled vector a sentence."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_dim
        self.token_embed = nn.Embedding(config.vocab_size, width)
        self.pos_embed = nn.Parameter(torch.zeros(config.context_length, width))
        self.type_embed = nn.Parameter(torch.zeros(config.num_types, width))
        self.embed_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.blocks = nn.ModuleList(PostNormBlock(config.block()) for _ in range(config.num_layers))
        self.pooler = nn.Linear(width, width) if config.pooler else None

    def init_weights(self) -> None:
        """Draw embeddings as the reference does."""
        for table in (self.token_embed.weight, self.pos_embed, self.type_embed):
            nn.init.normal_(table, std=0.02)

    def states(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """States of all tokens.

        Args:
            ids: (B, T).
            attend: (B, T) bool, True = a real token; None = no padding.

        Returns:
            (B, T, D).
        """
        length = ids.shape[1]
        x = self.embed_norm(self.token_embed(ids) + self.type_embed[0] + self.pos_embed[:length])
        mask = attention_mask(real_tokens(attend), causal=False, queries=length, keys=length)
        for block in self.blocks:
            x = block(x, mask=mask)
        return x

    def forward(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """One vector a sentence: the mean over its real tokens.

        Args:
            ids, attend: see `states`.

        Returns:
            (B, D).
        """
        x = self.states(ids, attend)
        if attend is None:
            return x.mean(1)
        weight = attend[..., None].to(x.dtype)
        return (x * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
