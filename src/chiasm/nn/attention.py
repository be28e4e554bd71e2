"""The one attention: self or cross, grouped heads, rotary positions, cache (Vaswani et al. 2017, §3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.nn.cache import Cache
from chiasm.nn.masks import EVERYTHING, AttentionMask
from chiasm.nn.positions import rotate

Rotary = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionConfig:
    """Shape of an attention layer.

    Attributes:
        hidden_dim: D of the queries' stream.
        num_heads: H.
        num_kv_heads: K; None = H. H must be a multiple of K.
        head_dim: C; None = D / H.
        context_dim: width of the stream that keys and values come from; None = D.
        output_dim: width of the result; None = D.
        qkv_bias, out_bias: whether the projections have a bias.
    """

    hidden_dim: int
    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    context_dim: int | None = None
    output_dim: int | None = None
    qkv_bias: bool = True
    out_bias: bool = True

    def build(self) -> Attention:
        return Attention(self)


class Attention(nn.Module):
    """Scaled dot-product attention with separate projections, on torch's fused kernels."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.num_kv_heads = config.num_kv_heads or config.num_heads
        self.head_dim = config.head_dim or config.hidden_dim // config.num_heads
        context_dim = config.context_dim or config.hidden_dim
        inner, kv_inner = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_dim, inner, bias=config.qkv_bias)
        self.k_proj = nn.Linear(context_dim, kv_inner, bias=config.qkv_bias)
        self.v_proj = nn.Linear(context_dim, kv_inner, bias=config.qkv_bias)
        self.o_proj = nn.Linear(inner, config.output_dim or config.hidden_dim, bias=config.out_bias)

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor | None = None,
        *,
        mask: AttentionMask = EVERYTHING,
        rotary: Rotary | None = None,
        cache: Cache | None = None,
        layer: int = 0,
    ) -> torch.Tensor:
        """Attend.

        Args:
            x: (B, Q, D), the queries' stream.
            context: (B, S, context_dim), the stream to attend to; None = x.
            mask: what may be attended to.
            rotary: tables of `rotary_tables` for the Q positions.
            cache: where keys and values are kept; Q new ones are appended.
            layer: which layer of the cache this is.

        Returns:
            (B, Q, output_dim).
        """
        context = x if context is None else context
        q = self._heads(self.q_proj(x), self.num_heads)
        k = self._heads(self.k_proj(context), self.num_kv_heads)
        v = self._heads(self.v_proj(context), self.num_kv_heads)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        return self.o_proj(self._attend(q, k, v, mask).transpose(1, 2).flatten(2))

    def _heads(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        return x.view(*x.shape[:2], heads, self.head_dim).transpose(1, 2)  # (B, heads, T, C)

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: AttentionMask) -> torch.Tensor:
        group = self.num_heads // self.num_kv_heads
        if group > 1 and q.shape[2] == 1:
            # one new token: the heads of a group are G queries on the same keys, so no key is ever repeated
            out = F.scaled_dot_product_attention(
                q.view(q.shape[0], self.num_kv_heads, group, -1), k, v, attn_mask=mask.allowed
            )
            return out.reshape(q.shape)
        if group > 1:
            k, v = (x[:, :, None].expand(-1, -1, group, -1, -1).flatten(1, 2) for x in (k, v))  # (B, H, S, C)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.allowed, is_causal=mask.causal)
