"""Decoders that normalise what their sublayers give: OLMo 2 and OLMo-7B-1024 (OLMo 2 2025, §3.2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from chiasm.language.decoder import DecoderConfig
from chiasm.nn.blocks import SublayerNormBlock


@dataclass(frozen=True, kw_only=True, slots=True)
class ReorderedDecoderConfig(DecoderConfig):
    """A causal language model of x + norm(f(x)) layers."""

    def layer(self, index: int) -> nn.Module:
        """The layer at `index`, with random weights."""
        return SublayerNormBlock(self.block())
