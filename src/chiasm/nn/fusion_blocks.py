"""Transformer layers that may also attend to a second stream: BERT's, with cross-attention and a causal twin.

Cross-attention stands between self-attention and MLP (Vaswani et al. 2017, fig. 1, right) and is passed over where
no context is given. A layer with a twin has a second self-attention for causal reading and shares everything else
between its two modes (Li et al. 2022, "BLIP", §3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from chiasm.nn.attention import Attention, AttentionConfig
from chiasm.nn.blocks import BlockConfig
from chiasm.nn.cache import Cache
from chiasm.nn.masks import EVERYTHING, AttentionMask, real_tokens

KeysValues = tuple[torch.Tensor, torch.Tensor]


def context_mask(attend: torch.Tensor | None) -> AttentionMask:
    """The mask of a second stream: (B, S) bool, True = may be attended to; None = all of it."""
    attend = real_tokens(attend)
    return EVERYTHING if attend is None else AttentionMask(attend[:, None, None, :])


@dataclass(slots=True)
class Context:
    """A second stream to attend to.

    Attributes:
        states: (B, S, context_dim); None where `projected` says everything.
        mask: which positions count.
        projected: keys and values, one pair a layer that reads them, when they are used more than once.
    """

    states: torch.Tensor | None
    mask: AttentionMask = EVERYTHING
    projected: Sequence[KeysValues | None] = field(default=())

    def select(self, rows: torch.Tensor) -> None:
        """Keep the rows (B′,), in that order."""
        if self.states is not None:
            self.states = self.states[rows]
        if self.mask.allowed is not None:
            self.mask = AttentionMask(self.mask.allowed[rows])
        self.projected = [None if pair is None else (pair[0][rows], pair[1][rows]) for pair in self.projected]

    def of(self, layer: int) -> KeysValues | None:
        """The kept keys and values of one layer."""
        return self.projected[layer] if self.projected else None


def attend_visibly(
    attn: Attention, x: torch.Tensor, context: torch.Tensor, mask: AttentionMask, record: list[torch.Tensor]
) -> torch.Tensor:
    """Cross-attention computed step by step, so that its weights can be looked at and differentiated.

    Args:
        attn: a layer with as many key heads as query heads.
        x: (B, Q, D).
        context: (B, S, context_dim).
        mask: which positions count.
        record: gets the (B, H, Q, S) weights.

    Returns:
        (B, Q, D), what `attn(x, context, mask=mask)` gives.
    """
    k, v = attn.project(context)
    q = attn.q_proj(x).view(*x.shape[:2], attn.num_heads, attn.head_dim).transpose(1, 2)
    scores = q @ k.transpose(2, 3) * attn.head_dim**-0.5  # (B, H, Q, S)
    if mask.allowed is not None:
        scores = scores.masked_fill(~mask.allowed, -torch.inf)
    weights = scores.softmax(-1)
    record.append(weights)
    return attn.o_proj((weights @ v).transpose(1, 2).flatten(2))


class FusionBlock(nn.Module):
    """Post-norm layer: self-attention, cross-attention where there is a context, MLP.

    Args:
        config: of self-attention, MLP and norms.
        cross: the cross-attention; None = the layer has none.
        twin: whether causal reading has a self-attention of its own.
    """

    def __init__(self, config: BlockConfig, cross: AttentionConfig | None = None, *, twin: bool = False) -> None:
        super().__init__()
        self.attn = config.attention.build()
        self.norm1 = config.norm()
        self.causal_attn = config.attention.build() if twin else None
        self.causal_norm = config.norm() if twin else None
        self.cross_attn = cross.build() if cross is not None else None
        self.cross_norm = config.norm() if cross is not None else None
        self.mlp = config.mlp.build()
        self.norm2 = config.norm()

    def forward(
        self,
        x: torch.Tensor,
        *,
        mask: AttentionMask = EVERYTHING,
        context: Context | None = None,
        causal: bool = False,
        cache: Cache | None = None,
        layer: int = 0,
        record: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """One layer.

        Args:
            x: (B, T, D).
            mask: of self-attention.
            context: the second stream; None = cross-attention is passed over.
            causal: read with the causal twin, where there is one (the mask says what is seen).
            cache, layer: see `Attention.forward`.
            record: gets the cross-attention's weights, computed the slow way.

        Returns:
            (B, T, D).
        """
        attn, norm = self.attn, self.norm1
        if causal and self.causal_attn is not None and self.causal_norm is not None:
            attn, norm = self.causal_attn, self.causal_norm
        x = norm(x + attn(x, mask=mask, cache=cache, layer=layer))
        if context is not None and self.cross_attn is not None and self.cross_norm is not None:
            x = self.cross_norm(x + self._cross(self.cross_attn, x, context, layer, record))
        return self.norm2(x + self.mlp(x))

    @staticmethod
    def _cross(
        attn: Attention, x: torch.Tensor, context: Context, layer: int, record: list[torch.Tensor] | None
    ) -> torch.Tensor:
        if record is not None:
            assert context.states is not None
            return attend_visibly(attn, x, context.states, context.mask, record)
        return attn(x, context.states, mask=context.mask, projected=context.of(layer))


class CrossBlock(nn.Module):
    """Pre-norm layer that attends to a second stream only, each stream under a norm of its own, then an MLP.

    Args:
        config: of the attention, the MLP and the norms; both streams are as wide.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.norm1 = config.norm()
        self.norm_kv = config.norm()
        attention = config.attention.build()
        assert isinstance(attention, Attention), "keys and values are projected apart"
        self.attn: Attention = attention
        self.norm2 = config.norm()
        self.mlp = config.mlp.build()

    def project(self, context: torch.Tensor) -> KeysValues:
        """Keys and values of the (B, S, D) second stream, for any number of calls."""
        return self.attn.project(self.norm_kv(context))

    def forward(self, x: torch.Tensor, projected: KeysValues) -> torch.Tensor:
        """(B, T, D) and what `project` gave → (B, T, D)."""
        x = x + self.attn(self.norm1(x), projected=projected)
        return x + self.mlp(self.norm2(x))
