"""Replacing the linear layers of a built model by quantized ones, in place.

Where a layer's input goes through several matrices (queries, keys and values; gate and up), they become one: the input
is rounded once, and there is one product where there were three. A class whose code reads a layer's matrix itself names
that layer in `unquantized`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from chiasm.nn.attention import Attention
from chiasm.nn.blocks import Block, ParallelBlock, PostNormBlock, SublayerNormBlock
from chiasm.nn.cross_blocks import CrossBlock
from chiasm.nn.fusion_blocks import FusionBlock
from chiasm.nn.mlp import GatedMLP
from chiasm.nn.quantized import Int4Linear, Int8Linear, QuantizedLinear, fits_int4

Quantizer = Callable[[torch.Tensor, torch.Tensor | None], QuantizedLinear]
SELF_ATTENDING = (Block, CrossBlock, FusionBlock, ParallelBlock, PostNormBlock, SublayerNormBlock)
LEAST = 16  # matrices with a shorter side are left alone: there is nothing to gain


def eight_bits(weight: torch.Tensor, bias: torch.Tensor | None) -> QuantizedLinear:
    """(N, K) → a layer of 8-bit weights."""
    return Int8Linear(weight, bias)


def four_bits(weight: torch.Tensor, bias: torch.Tensor | None) -> QuantizedLinear:
    """(N, K) → a layer of 4-bit weights, or of 8-bit ones where the matrix can't be cut into groups."""
    return Int4Linear(weight, bias) if fits_int4(weight) else Int8Linear(weight, bias)


def quantize_layers(module: nn.Module, quantizer: Quantizer) -> int:
    """Quantize every linear layer inside a module.

    Args:
        module: changed in place.
        quantizer: `eight_bits` or `four_bits`.

    Returns:
        How many layers there are now.
    """
    count = 0
    for part in list(module.modules()):
        if isinstance(part, SELF_ATTENDING):
            for name in ("attn", "causal_attn"):
                attention = getattr(part, name, None)
                if type(attention) is Attention:
                    count += _join(attention, ("q_proj", "k_proj", "v_proj"), "qkv_proj", quantizer)
        elif type(part) is GatedMLP:
            count += _join(part, ("gate_proj", "up_proj"), "gate_up_proj", quantizer)
    for part in list(module.modules()):
        kept = getattr(part, "unquantized", ())
        for name, child in list(part.named_children()):
            if type(child) is nn.Linear and name not in kept and min(child.weight.shape) >= LEAST:
                setattr(part, name, quantizer(child.weight, child.bias))
                count += 1
    return count


def _join(part: nn.Module, names: tuple[str, ...], joined: str, quantizer: Quantizer) -> int:
    layers = [getattr(part, name, None) for name in names]
    linear = [layer for layer in layers if type(layer) is nn.Linear]
    biases = [layer.bias for layer in linear if layer.bias is not None]
    alike = len({layer.in_features for layer in linear}) == 1 and len(biases) in (0, len(linear))
    if len(linear) < len(names) or not alike or min(linear[0].weight.shape) < LEAST:
        return 0
    bias = torch.cat([*biases]) if biases else None
    setattr(part, joined, quantizer(torch.cat([layer.weight for layer in linear]), bias))
    for name in names:
        delattr(part, name)
    return 1
