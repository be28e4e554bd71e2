"""The one attention: self or cross, grouped heads, rotary positions, cache (Vaswani et al. 2017, §3.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.nn.cache import AnyCache, JointStep
from chiasm.nn.masks import EVERYTHING, AttentionMask, Runs
from chiasm.nn.norms import RMSNorm
from chiasm.nn.positions import rotate

# tables for queries and keys alike, or (xPos, Qwen) first for queries, then for keys
Rotary = tuple[torch.Tensor, ...]

FEW_KEYS = 256  # from here on both types' gradients take about as long


@dataclass(frozen=True, kw_only=True, slots=True)
class QKNormConfig:
    """RMSNorm of queries and keys before they are rotated (Dehghani et al. 2023, §2).

    Attributes:
        eps: ε.
        per_head: over each head's C features (Qwen3); False = over all heads at once (InternViT-6B, OLMoE).
        layer_norm: a LayerNorm, not an RMSNorm (IDEFICS' resampler).
    """

    eps: float = 1e-6
    per_head: bool = False
    layer_norm: bool = False


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
        scale: what scores are multiplied by; None = 1/√C.
        inner_norm_eps: ε of a LayerNorm before the output projection (Wang et al. 2022, "Magneto", §3.2); None = none.
        qk_norm: norms of queries and keys; None = none.
    """

    hidden_dim: int
    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    context_dim: int | None = None
    output_dim: int | None = None
    qkv_bias: bool = True
    out_bias: bool = True
    scale: float | None = None
    inner_norm_eps: float | None = None
    qk_norm: QKNormConfig | None = None

    def build(self) -> Attention:
        return Attention(self)


class Attention(nn.Module):
    """Scaled dot-product attention on torch's fused kernels.

    Projections are separate, unless `nn.quantizing` joined them: then `qkv_proj` gives queries, keys and values in one
    product, and the three aren't there.
    """

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.num_kv_heads = config.num_kv_heads or config.num_heads
        self.head_dim = config.head_dim or config.hidden_dim // config.num_heads
        self.scale = config.scale
        context_dim = config.context_dim or config.hidden_dim
        inner, kv_inner = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_dim, inner, bias=config.qkv_bias)
        self.k_proj = nn.Linear(context_dim, kv_inner, bias=config.qkv_bias)
        self.v_proj = nn.Linear(context_dim, kv_inner, bias=config.qkv_bias)
        self.qkv_proj: nn.Module | None = None
        self.norm_heads = config.qk_norm is not None and config.qk_norm.per_head
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if config.qk_norm is not None:
            widths = (self.head_dim,) * 2 if self.norm_heads else (inner, kv_inner)
            kind = nn.LayerNorm if config.qk_norm.layer_norm else RMSNorm
            self.q_norm, self.k_norm = (kind(width, config.qk_norm.eps) for width in widths)
        self.plain = config.qk_norm is None
        eps = config.inner_norm_eps
        self.inner_norm = None if eps is None else nn.LayerNorm(inner, eps=eps)
        self.o_proj = nn.Linear(inner, config.output_dim or config.hidden_dim, bias=config.out_bias)

    def project(self, context: torch.Tensor, values: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a stream, for `forward` to attend to any number of times.

        Args:
            context: (B, S, context_dim).
            values: (B, S, context_dim), what values are made of where it differs from keys; None = `context`.

        Returns:
            Two tensors (B, K, S, C).
        """
        if self.qkv_proj is not None:
            _, keys, own = self._all(context)
            return keys, own if values is None else self._all(values)[2]
        keys = self._normed(self.k_proj(context), self.k_norm, self.num_kv_heads)
        return keys, self._heads(self.v_proj(context if values is None else values), self.num_kv_heads)

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor | None = None,
        *,
        mask: AttentionMask = EVERYTHING,
        rotary: Rotary | None = None,
        cache: AnyCache | JointStep | None = None,
        layer: int = 0,
        projected: tuple[torch.Tensor, torch.Tensor] | None = None,
        keep: slice | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend.

        Args:
            x: (B, Q, D), the queries' stream.
            context: (B, S, context_dim), the stream to attend to; None = x.
            mask: what may be attended to.
            rotary: tables of `rotary_tables` or `xpos_tables` for the Q positions.
            cache: where keys and values are kept; Q new ones are appended.
            layer: which layer of the cache this is.
            projected: what `project` made of the context; None = it is projected now.
            keep: the positions of x that ask, see `kept`; all of x is attended to; None = all.

        Returns:
            (B, Q, output_dim).
        """
        if self.qkv_proj is None:
            q = self._normed(self.q_proj(kept(x, keep)), self.q_norm, self.num_heads)
            k, v = projected or self.project(x if context is None else context)
        elif self.plain and context is projected is keep is None and rotary is not None and len(rotary) == 2:
            heads = self.num_heads + self.num_kv_heads
            joined = self._heads(self.qkv_proj(x), heads + self.num_kv_heads)
            turning, v = joined.split_with_sizes((heads, self.num_kv_heads), 1)
            q, k = rotate(turning, rotary).split_with_sizes((self.num_heads, self.num_kv_heads), 1)  # both at once
            rotary = None
        else:
            q, k, v = self._all(x)
            q = kept(q.transpose(1, 2), keep).transpose(1, 2)
            if projected is not None or context is not None:
                k, v = projected or self.project(context)  # type: ignore[arg-type]
        if rotary is not None:
            q, k = rotate(q, rotary[:2]), rotate(k, rotary[-2:])
        if isinstance(cache, JointStep):
            out = cache.attend(self._attend, layer, q, k, v)
        else:
            if cache is not None:
                k, v = cache.append(layer, k, v)
            out = self._attend(q, k, v, mask)
        out = out.transpose(1, 2).flatten(2)
        return self.o_proj(out if self.inner_norm is None else self.inner_norm(out))

    def _all(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, T, D) → queries, keys and values from one product, each (B, heads, T, C)."""
        assert self.qkv_proj is not None
        width, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        q, k, v = self.qkv_proj(x).split_with_sizes((width, kv_width, kv_width), -1)
        q, k = self._normed(q, self.q_norm, self.num_heads), self._normed(k, self.k_norm, self.num_kv_heads)
        return q, k, self._heads(v, self.num_kv_heads)

    def _normed(self, x: torch.Tensor, norm: nn.Module, heads: int) -> torch.Tensor:
        return norm(self._heads(x, heads)) if self.norm_heads else self._heads(norm(x), heads)

    def _heads(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        return x.view(*x.shape[:2], heads, self.head_dim).transpose(1, 2)  # (B, heads, T, C)

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: AttentionMask) -> torch.Tensor:
        if mask.runs is not None:
            return attend_runs(q, k, v, mask.runs, self.scale)
        if mask.lengths is not None:
            return row_by_row(self._attend, q, k, v, mask)
        group = self.num_heads // self.num_kv_heads
        if group > 1 and q.shape[2] == 1:
            # one new token: the heads of a group are G queries on the same keys, so no key is ever repeated
            allowed = mask.allowed
            if allowed is not None and allowed.shape[1] > 1:  # a bias that differs from head to head
                allowed = allowed.view(len(allowed), self.num_kv_heads, group, -1)
            grouped = q.view(q.shape[0], self.num_kv_heads, group, -1)
            return attended(grouped, k, v, allowed, scale=self.scale).reshape(q.shape)
        if group > 1:
            k, v = (x[:, :, None].expand(-1, -1, group, -1, -1).flatten(1, 2) for x in (k, v))  # (B, H, S, C)
        return attended(q, k, v, mask.allowed, causal=mask.causal, scale=self.scale)


def attended(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    allowed: torch.Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """softmax(s·QKᵀ)V on torch's fused kernels.

    A processor's kernel for gradients in bfloat16 takes many times as long as in float32 where there are few keys:
    there it is computed in float32.

    Args:
        q, k, v: (B, H, Q, C), (B, H, S, C), (B, H, S, C).
        allowed: broadcastable to (B, H, Q, S), true where attention is allowed, or what is added to the scores; None =
            everywhere.
        causal: allow no later key.
        scale: s; None = 1/√C.

    Returns:
        (B, H, Q, C).
    """
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else q.dtype
    learns = q.requires_grad or k.requires_grad or v.requires_grad
    if q.device.type != "cpu" or kind != torch.bfloat16 or not learns or k.shape[2] > FEW_KEYS:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=causal, scale=scale)
    if allowed is not None and allowed.is_floating_point():
        allowed = allowed.float()
    with torch.autocast("cpu", enabled=False):
        whole = F.scaled_dot_product_attention(
            q.float(), k.float(), v.float(), attn_mask=allowed, is_causal=causal, scale=scale
        )
    return whole.bfloat16()


def kept(x: torch.Tensor, keep: slice | torch.Tensor | None) -> torch.Tensor:
    """Some positions of (B, T, …): a slice of all rows, or one position a row, (B,) → (B, 1, …); None = all."""
    if keep is None:
        return x
    if isinstance(keep, slice):
        return x[:, keep]
    return x[torch.arange(len(x), device=x.device), keep][:, None]


def row_by_row(
    attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, AttentionMask], torch.Tensor],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: AttentionMask,
) -> torch.Tensor:
    """Attention of rows of different length, each by itself; see `AttentionMask.lengths`.

    Args:
        attend: attention of what remains.
        q, k, v: (B, …, Q, C), (B, …, S, C), (B, …, S, C).
        mask: with lengths.

    Returns:
        (B, …, Q, C).
    """
    assert mask.lengths is not None
    rows = [
        attend(q[at : at + 1], k[at : at + 1, :, :length], v[at : at + 1, :, :length], mask.of_row(length))
        for at, length in enumerate(mask.lengths)
    ]
    return torch.cat(rows)


def attend_runs(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, runs: Runs, scale: float | None = None
) -> torch.Tensor:
    """Attention within the runs of one packed row: one kernel call for each distinct length, nothing padded.

    Args:
        q, k, v: (1, H, P, C).
        runs: from `masks.run_mask`.
        scale: what scores are multiplied by; None = 1/√C.

    Returns:
        (1, H, P, C).
    """
    parts = [x[0] for x in (q, k, v)]  # (H, P, C)
    if runs.order is not None:
        parts = [x.index_select(1, runs.order) for x in parts]
    heads, _, width = parts[0].shape
    outputs, start = [], 0
    for count, length in runs.shapes:
        stop = start + count * length
        one = [x[:, start:stop].reshape(heads, count, length, width).transpose(0, 1) for x in parts]  # (n, H, L, C)
        out = attended(one[0], one[1], one[2], scale=scale)
        outputs.append(out.transpose(0, 1).reshape(heads, stop - start, width))
        start = stop
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
    return (joined if runs.restore is None else joined.index_select(1, runs.restore))[None]
