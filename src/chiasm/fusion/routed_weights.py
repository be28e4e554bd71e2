"""Weights chosen by a token's kind: the visual expert and partial LoRA.

* The visual expert (CogVLM, Wang et al. 2023, §2.1): in every layer, visual tokens have projections and an MLP of their
  own; attention itself sees all tokens together.
* Partial LoRA (InternLM-XComposer2, Dong et al. 2024, §3.2): every projection is shared, and visual tokens get a
  low-rank addition.

A route is (B, T) bool, True = a visual token; None = all are text, as in every step of decoding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from chiasm.language.decoder import DecoderConfig
from chiasm.nn.attention import Attention, AttentionConfig, Rotary
from chiasm.nn.blocks import BlockConfig
from chiasm.nn.cache import AnyCache
from chiasm.nn.masks import EVERYTHING, AttentionMask
from chiasm.nn.mlp import GatedMLP, GatedMLPConfig
from chiasm.nn.positions import rotate

Layer = Callable[[torch.Tensor], torch.Tensor]


def routed(x: torch.Tensor, route: torch.Tensor | None, text: Layer, visual: Layer) -> torch.Tensor:
    """Send each token through one of two layers; neither sees the other's tokens.

    Args:
        x: (B, T, D).
        route: (B, T) bool, True = visual; None = all text.
        text, visual: (…, D) → (…, E).

    Returns:
        (B, T, E).
    """
    if route is None:
        return text(x)
    flat, chosen = x.flatten(0, 1), route.flatten()
    first, second = chosen.nonzero()[:, 0], (~chosen).nonzero()[:, 0]
    out = torch.cat((visual(flat[first]), text(flat[second])))
    return out[torch.cat((first, second)).argsort()].unflatten(0, x.shape[:2])


class _RoutedAttention(Attention):
    """Attention whose projections look at the route; subclasses say how."""

    def queries_keys_values(
        self, x: torch.Tensor, route: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, T, D) → three tensors (B, T, heads·C)."""
        raise NotImplementedError

    def output(self, x: torch.Tensor, route: torch.Tensor | None) -> torch.Tensor:
        """(B, T, H·C) → (B, T, D)."""
        raise NotImplementedError

    def attend(
        self,
        x: torch.Tensor,
        *,
        mask: AttentionMask,
        rotary: Rotary | None,
        cache: AnyCache | None,
        layer: int,
        route: torch.Tensor | None,
    ) -> torch.Tensor:
        """As `Attention.forward` on one stream, with a route."""
        q, k, v = self.queries_keys_values(x, route)
        q, k, v = self._heads(q, self.num_heads), self._heads(k, self.num_kv_heads), self._heads(v, self.num_kv_heads)
        if rotary is not None:
            q, k = rotate(q, rotary[:2]), rotate(k, rotary[-2:])
        if cache is not None:
            k, v = cache.append(layer, k, v)
        return self.output(self._attend(q, k, v, mask).transpose(1, 2).flatten(2), route)


class ExpertAttention(_RoutedAttention):
    """Two sets of projections."""

    def __init__(self, config: AttentionConfig, visual_bias: bool) -> None:
        super().__init__(config)
        inner, kv_inner = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        width = config.hidden_dim
        self.visual_q_proj = nn.Linear(width, inner, bias=visual_bias)
        self.visual_k_proj = nn.Linear(width, kv_inner, bias=visual_bias)
        self.visual_v_proj = nn.Linear(width, kv_inner, bias=visual_bias)
        self.visual_o_proj = nn.Linear(inner, width, bias=False)

    def queries_keys_values(
        self, x: torch.Tensor, route: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each token through its own projections."""
        return (
            routed(x, route, self.q_proj, self.visual_q_proj),
            routed(x, route, self.k_proj, self.visual_k_proj),
            routed(x, route, self.v_proj, self.visual_v_proj),
        )

    def output(self, x: torch.Tensor, route: torch.Tensor | None) -> torch.Tensor:
        """Each token through its own projection."""
        return routed(x, route, self.o_proj, self.visual_o_proj)


class LowRank(nn.Module):
    """up(down(x)), without biases."""

    def __init__(self, input_dim: int, output_dim: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(input_dim, rank, bias=False)
        self.up = nn.Linear(rank, output_dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D) → (..., E)."""
        return self.up(self.down(x))


def _added(x: torch.Tensor, route: torch.Tensor | None, plain: Layer, extra: Layer) -> torch.Tensor:
    out = plain(x)
    if route is None:
        return out
    where = route.nonzero(as_tuple=True)
    return out.index_put(where, out[where] + extra(x[where]))


class PartialLoraAttention(_RoutedAttention):
    """Shared projections; a low-rank addition for visual tokens, one `down` for queries, keys and values."""

    def __init__(self, config: AttentionConfig, rank: int) -> None:
        super().__init__(config)
        inner, kv_inner = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.lora_down = nn.Linear(config.hidden_dim, rank, bias=False)
        self.lora_q = nn.Linear(rank, inner, bias=False)
        self.lora_k = nn.Linear(rank, kv_inner, bias=False)
        self.lora_v = nn.Linear(rank, kv_inner, bias=False)
        self.lora_o = LowRank(inner, config.hidden_dim, rank)

    def queries_keys_values(
        self, x: torch.Tensor, route: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Projections, and the addition where the route says so."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if route is None:
            return q, k, v
        where = route.nonzero(as_tuple=True)
        low = self.lora_down(x[where])
        q, k, v = (
            y.index_put(where, y[where] + up(low)) for y, up in ((q, self.lora_q), (k, self.lora_k), (v, self.lora_v))
        )
        return q, k, v

    def output(self, x: torch.Tensor, route: torch.Tensor | None) -> torch.Tensor:
        """The projection, and its addition."""
        return _added(x, route, self.o_proj, self.lora_o)


class PartialLoraMLP(GatedMLP):
    """A gated MLP with low-rank additions for visual tokens."""

    def __init__(self, config: GatedMLPConfig, rank: int) -> None:
        super().__init__(config)
        self.lora_gate = LowRank(config.input_dim, config.hidden_dim, rank)
        self.lora_up = LowRank(config.input_dim, config.hidden_dim, rank)
        self.lora_down = LowRank(config.hidden_dim, config.input_dim, rank)

    def run(self, x: torch.Tensor, route: torch.Tensor | None) -> torch.Tensor:
        """(B, T, D) → (B, T, D)."""
        gate = _added(x, route, self.gate_proj, self.lora_gate)
        inner = self.act(gate) * _added(x, route, self.up_proj, self.lora_up)
        return _added(inner, route, self.down_proj, self.lora_down)


class _RoutedBlock(nn.Module):
    """A pre-norm layer that passes a route on."""

    attn: _RoutedAttention

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = config.norm(), config.norm()

    def feed(self, x: torch.Tensor, route: torch.Tensor | None) -> torch.Tensor:
        """The MLP."""
        raise NotImplementedError

    def forward(
        self,
        x: torch.Tensor,
        *,
        mask: AttentionMask = EVERYTHING,
        rotary: Rotary | None = None,
        cache: AnyCache | None = None,
        layer: int = 0,
        route: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One layer; arguments as for `Block.forward`, and (B, T) bool `route`."""
        x = x + self.attn.attend(self.norm1(x), mask=mask, rotary=rotary, cache=cache, layer=layer, route=route)
        return x + self.feed(self.norm2(x), route)


class ExpertBlock(_RoutedBlock):
    """A layer with a visual expert."""

    def __init__(self, config: BlockConfig, visual_bias: bool) -> None:
        super().__init__(config)
        assert isinstance(config.attention, AttentionConfig) and isinstance(config.mlp, GatedMLPConfig)
        self.attn = ExpertAttention(config.attention, visual_bias)
        self.mlp, self.visual_mlp = config.mlp.build(), config.mlp.build()

    def feed(self, x: torch.Tensor, route: torch.Tensor | None) -> torch.Tensor:
        """Each token through its own MLP."""
        return routed(x, route, self.mlp, self.visual_mlp)


class PartialLoraBlock(_RoutedBlock):
    """A layer with partial LoRA."""

    mlp: PartialLoraMLP

    def __init__(self, config: BlockConfig, rank: int) -> None:
        super().__init__(config)
        assert isinstance(config.attention, AttentionConfig) and isinstance(config.mlp, GatedMLPConfig)
        self.attn = PartialLoraAttention(config.attention, rank)
        self.mlp = PartialLoraMLP(config.mlp, rank)

    def feed(self, x: torch.Tensor, route: torch.Tensor | None) -> torch.Tensor:
        """The MLP with its additions."""
        return self.mlp.run(x, route)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertDecoderConfig(DecoderConfig):
    """A causal language model with a visual expert in every layer.

    Attributes:
        visual_bias: whether the visual queries, keys and values have biases (CogVLM2).
    """

    visual_bias: bool = False

    def layer(self, index: int) -> nn.Module:
        """The layer at `index`, with random weights."""
        return ExpertBlock(self.block(), self.visual_bias)


@dataclass(frozen=True, kw_only=True, slots=True)
class PartialLoraDecoderConfig(DecoderConfig):
    """A causal language model with partial LoRA in every layer.

    Attributes:
        rank: of the additions.
    """

    rank: int = 256

    def layer(self, index: int) -> nn.Module:
        """The layer at `index`, with random weights."""
        return PartialLoraBlock(self.block(), self.rank)
