"""A causal text tower in two halves: one reads text alone, the other also attends to a picture (CoCa, §3.2, fig. 2).

The lower half ends in a class token appended after the text, whose state is the sentence for contrast; the upper half
goes on from the text's own states and predicts the next word. As OpenCLIP builds it, a layer of the upper half is a
whole causal layer followed by a whole cross-attending one, each with its MLP; the paper has one MLP for both.

OpenCLIP masks padding one place too far to the right, so that the class token sees the first padded token and itself
only when there is no padding. Its published weights were trained so, and `Captioner.sentence` does the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.nn.attention import AttentionConfig
from chiasm.nn.blocks import Block, BlockConfig
from chiasm.nn.cache import Cache
from chiasm.nn.fusion_blocks import CrossBlock, KeysValues
from chiasm.nn.masks import AttentionMask, attention_mask, real_tokens
from chiasm.nn.mlp import MLPConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionerConfig:
    """The text tower.

    Attributes:
        vocab_size, context_length: V, most tokens, the class token not counted.
        hidden_dim, num_heads, mlp_dim: D, H, M.
        text_layers, fusion_layers: layers of either half.
        pad_id: what fills a text for contrast; OpenCLIP's padding is an ordinary id.
        act, norm_eps: activation, ε of every LayerNorm.
    """

    vocab_size: int
    context_length: int
    hidden_dim: int
    num_heads: int
    mlp_dim: int
    text_layers: int
    fusion_layers: int
    pad_id: int = 0
    act: str = "gelu"
    norm_eps: float = 1e-5

    def block(self) -> BlockConfig:
        return BlockConfig(
            attention=AttentionConfig(hidden_dim=self.hidden_dim, num_heads=self.num_heads),
            mlp=MLPConfig(input_dim=self.hidden_dim, hidden_dim=self.mlp_dim, act=self.act),
            norm_eps=self.norm_eps,
        )

    def build(self) -> Captioner:
        return Captioner(self)


class Captioner(nn.Module):
    """Token ids → a sentence's vector, or the next word with a picture in view."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_dim
        self.token_embed = nn.Embedding(config.vocab_size, width)
        self.pos_embed = nn.Parameter(torch.zeros(config.context_length + 1, width))
        self.cls_token = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(config.block()) for _ in range(config.text_layers))
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.fusion_blocks = nn.ModuleList(Block(config.block()) for _ in range(config.fusion_layers))
        self.cross_blocks = nn.ModuleList(CrossBlock(config.block()) for _ in range(config.fusion_layers))
        self.norm_out = nn.LayerNorm(width, eps=config.norm_eps)
        self.head = nn.Linear(width, config.vocab_size, bias=False)

    def init_weights(self) -> None:
        """Draw embeddings as the reference does."""
        nn.init.normal_(self.token_embed.weight, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.01)
        nn.init.normal_(self.cls_token, std=0.01)

    def read(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Read right-padded texts with the lower half.

        Args:
            ids: (B, T), T at most `context_length`.
            attend: (B, T) bool, True = a real token; None = no padding.

        Returns:
            (B, D) of the class token, normalised, and (B, T, D) of the text.
        """
        size = self.config.context_length
        filled = ids if attend is None else ids.masked_fill(~attend, self.config.pad_id)
        filled = F.pad(filled, (0, size - ids.shape[1]), value=self.config.pad_id)
        x = torch.cat((self.token_embed(filled), self.cls_token.expand(len(ids), 1, -1)), 1) + self.pos_embed
        shifted = F.pad(filled != self.config.pad_id, (1, 0), value=True)  # (B, size + 1), see above
        causal = torch.ones(size + 1, size + 1, dtype=torch.bool, device=ids.device).tril()
        mask = AttentionMask((causal & shifted[:, None, :])[:, None])
        for block in self.blocks:
            x = block(x, mask=mask)
        return self.norm(x[:, -1]), x[:, : ids.shape[1]]

    def project(self, picture: torch.Tensor) -> list[KeysValues]:
        """(B, S, D) tokens of a picture → keys and values of every cross-attending layer."""
        return [block.project(picture) for block in self.cross_blocks if isinstance(block, CrossBlock)]

    def write(
        self,
        x: torch.Tensor,
        projected: list[KeysValues],
        attend: torch.Tensor | None = None,
        cache: Cache | None = None,
    ) -> torch.Tensor:
        """Go on from the lower half's states with a picture in view.

        Args:
            x: (B, T, D).
            projected: from `project`.
            attend: (B, S) bool over cached and new tokens; None = no padding.
            cache: keys and values so far; the lower half's layers come first.

        Returns:
            (B, T, D), normalised; `head` makes logits of it.
        """
        mask = self._mask(x, attend, cache)
        for index, (block, cross) in enumerate(zip(self.fusion_blocks, self.cross_blocks, strict=True)):
            x = cross(block(x, mask=mask, cache=cache, layer=len(self.blocks) + index), projected[index])
        return self.norm_out(x)

    def words(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor | None = None,
        attend: torch.Tensor | None = None,
        cache: Cache | None = None,
    ) -> torch.Tensor:
        """The lower half on text alone, without a class token.

        Args:
            ids: (B, T).
            positions: (B, T) or (1, T); None = counted from 0.
            attend, cache: see `write`.

        Returns:
            (B, T, D).
        """
        places = self.pos_embed[: ids.shape[1]] if positions is None else self.pos_embed[positions]
        x = self.token_embed(ids) + places
        mask = self._mask(x, attend, cache)
        for layer, block in enumerate(self.blocks):
            x = block(x, mask=mask, cache=cache, layer=layer)
        return x

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for both halves: B sequences of at most `capacity` positions."""
        config, table = self.config, self.token_embed.weight
        layers, width = config.text_layers + config.fusion_layers, config.hidden_dim // config.num_heads
        return Cache(layers, batch, config.num_heads, capacity, width, dtype=table.dtype, device=table.device)

    @staticmethod
    def _mask(x: torch.Tensor, attend: torch.Tensor | None, cache: Cache | None) -> AttentionMask:
        length, past = x.shape[1], 0 if cache is None else cache.length
        return attention_mask(real_tokens(attend), causal=True, queries=length, keys=past + length, device=x.device)
