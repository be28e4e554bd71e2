"""Storage by columns changes nothing that can be seen."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from chiasm.language.decoder import DecoderConfig
from chiasm.models.packing import pack
from chiasm.nn.storage import column_major
from chiasm.weights.quantize import quantize


def test_same_values_shapes_and_gradients() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 5), nn.LayerNorm(5))
    ids = torch.tensor([[1, 2, 10]])
    before, state = layers(ids), {name: value.clone() for name, value in layers.state_dict().items()}
    column_major(layers)
    column_major(layers)
    assert layers[1].weight.stride() == (1, 5) and layers[1].weight.shape == (5, 6)
    assert all(torch.equal(value, state[name]) for name, value in layers.state_dict().items())
    torch.testing.assert_close(layers(ids), before, atol=1e-6, rtol=0)
    layers(ids).sum().backward()
    assert layers[0].weight.grad is not None and layers[1].weight.grad is not None


@pytest.mark.parametrize("tied", [False, True])
def test_an_embedding_lies_by_columns_while_it_is_the_output_layer(tied: bool) -> None:
    config = DecoderConfig(
        vocab_size=40, hidden_dim=32, num_layers=1, num_heads=2, num_kv_heads=2, mlp_dim=48, context_length=16,
        norm_eps=1e-5, tie_embeddings=tied,
    )  # fmt: skip
    holder = nn.ModuleDict({"language": config.build()})
    weight = holder["language"].embed_tokens.weight
    column_major(holder)
    assert weight.stride() == ((1, 40) if tied else (32, 1))
    values, other = weight.detach().clone(), copy.deepcopy(holder)
    quantize(holder, "int8:all")
    assert weight.is_contiguous() and torch.equal(weight, values)
    other.language = other["language"]
    if pack(other):
        assert other["language"].embed_tokens.weight.is_contiguous()
