"""Multi-head latent attention (DeepSeek-V2 2024, §2.1; DeepSeek-V3 2024, §2.1.1).

Keys and values of all heads come from one latent vector a token, beside one rotated key that the heads share; only
those two are cached. Prompts expand the latent into keys and values. A new token goes the other way: its queries are
brought into the latent space, where all heads attend to one sequence ("absorbed"), and nothing is expanded.

Rotary features are stored in pairs, (x0, x1), (x2, x3), …; they are brought into the half-split order before turning.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chiasm.nn.attention import Rotary, attended, row_by_row
from chiasm.nn.cache import AnyCache
from chiasm.nn.masks import EVERYTHING, AttentionMask
from chiasm.nn.norms import RMSNorm
from chiasm.nn.positions import rotate


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentShape:
    """The widths of latent attention.

    Attributes:
        latent_dim: width of the keys' and values' latent.
        query_latent_dim: width of the queries' latent; None = queries come straight from the input.
        nope_dim, rope_dim: a head's features that don't turn, and that do.
        value_dim: a head's values.
    """

    latent_dim: int
    query_latent_dim: int | None
    nope_dim: int
    rope_dim: int
    value_dim: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentAttentionConfig:
    """Latent attention.

    Attributes:
        hidden_dim: D.
        num_heads: H.
        shape: its widths.
        norm_eps: ε of the latents' norms.
    """

    hidden_dim: int
    num_heads: int
    shape: LatentShape
    norm_eps: float

    def build(self) -> LatentAttention:
        return LatentAttention(self)


class LatentAttention(nn.Module):
    """Attention over a cache of latents."""

    unquantized = ("kv_up",)  # a new token's queries are multiplied by its parts

    def __init__(self, config: LatentAttentionConfig) -> None:
        super().__init__()
        shape = self.shape = config.shape
        self.num_heads = config.num_heads
        head = shape.nope_dim + shape.rope_dim
        self.scale = head**-0.5
        if shape.query_latent_dim is None:
            self.q_proj = nn.Linear(config.hidden_dim, config.num_heads * head, bias=False)
        else:
            self.q_down = nn.Linear(config.hidden_dim, shape.query_latent_dim, bias=False)
            self.q_norm = RMSNorm(shape.query_latent_dim, config.norm_eps)
            self.q_up = nn.Linear(shape.query_latent_dim, config.num_heads * head, bias=False)
        self.kv_down = nn.Linear(config.hidden_dim, shape.latent_dim + shape.rope_dim, bias=False)
        self.kv_norm = RMSNorm(shape.latent_dim, config.norm_eps)
        self.kv_up = nn.Linear(shape.latent_dim, config.num_heads * (shape.nope_dim + shape.value_dim), bias=False)
        self.o_proj = nn.Linear(config.num_heads * shape.value_dim, config.hidden_dim, bias=False)

    def forward(
        self,
        x: torch.Tensor,
        context: None = None,
        *,
        mask: AttentionMask = EVERYTHING,
        rotary: Rotary | None = None,
        cache: AnyCache | None = None,
        layer: int = 0,
    ) -> torch.Tensor:
        """Attend.

        Args:
            x: (B, Q, D).
            context: always None: this attention looks at its own stream.
            mask, rotary, cache, layer: see `Attention.forward`; the tables have `rope_dim` features.

        Returns:
            (B, Q, D).
        """
        assert rotary is not None and context is None
        shape = self.shape
        q = self._queries(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, Q, nope + rope)
        q_plain, q_turned = q.split((shape.nope_dim, shape.rope_dim), -1)
        latent, k_turned = self.kv_down(x).split((shape.latent_dim, shape.rope_dim), -1)
        q_turned = rotate(_halves(q_turned), rotary)
        k_turned = rotate(_halves(k_turned)[:, None], rotary)  # (B, 1, Q, rope)
        keys = torch.cat((self.kv_norm(latent)[:, None], k_turned), -1)  # (B, 1, Q, latent + rope)
        if cache is not None:
            keys, _ = cache.append(layer, keys, keys[..., :0])
        attend = self._absorbed if x.shape[1] == 1 and cache is not None else self._expanded
        return self.o_proj(attend(q_plain, q_turned, keys, mask).transpose(1, 2).flatten(2))

    def _queries(self, x: torch.Tensor) -> torch.Tensor:
        if self.shape.query_latent_dim is None:
            return self.q_proj(x)
        return self.q_up(self.q_norm(self.q_down(x)))

    def _expanded(
        self, q_plain: torch.Tensor, q_turned: torch.Tensor, keys: torch.Tensor, mask: AttentionMask
    ) -> torch.Tensor:
        shape = self.shape
        latent, turned = keys.split((shape.latent_dim, shape.rope_dim), -1)
        both = self.kv_up(latent[:, 0]).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, S, nope + value)
        k_plain, v = both.split((shape.nope_dim, shape.value_dim), -1)
        q = torch.cat((q_plain, q_turned), -1)
        k = torch.cat((k_plain, turned.expand(-1, self.num_heads, -1, -1)), -1)
        return attended(q, k, v, mask.allowed, causal=mask.causal)

    def _absorbed(
        self, q_plain: torch.Tensor, q_turned: torch.Tensor, keys: torch.Tensor, mask: AttentionMask
    ) -> torch.Tensor:
        shape = self.shape
        up = self.kv_up.weight.view(self.num_heads, shape.nope_dim + shape.value_dim, shape.latent_dim)
        k_up, v_up = up.split((shape.nope_dim, shape.value_dim), 1)
        q = torch.cat((q_plain @ k_up, q_turned), -1).transpose(1, 2)  # (B, 1, H, latent + rope): heads as queries
        values = keys[..., : shape.latent_dim]
        if mask.lengths is None:
            out = self._look(q, keys, values, mask)
        else:
            out = row_by_row(self._look, q, keys, values, mask)
        return out.transpose(1, 2) @ v_up.transpose(1, 2)  # (B, H, 1, value)

    def _look(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: AttentionMask) -> torch.Tensor:
        return attended(q, k, v, mask.allowed, scale=self.scale)


def _halves(x: torch.Tensor) -> torch.Tensor:
    """(..., C) in pairs → the half-split order."""
    return x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
