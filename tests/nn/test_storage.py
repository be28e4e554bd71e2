"""Storage by columns changes nothing that can be seen."""

from __future__ import annotations

import torch
from torch import nn

from chiasm.nn.storage import column_major


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
