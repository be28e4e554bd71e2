"""Shared by the parity tests: load a reference's folder, disturb what it left at zero, compare gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import chiasm
from chiasm.models.model import Model
from chiasm.weights.checkpoint import read_config
from chiasm.weights.layouts import layout_for

ATOL = 1e-5


def disturb(reference: nn.Module, seed: int = 0, scale: float = 0.1) -> nn.Module:
    """Move biases and norms off zero and one, and matrices off tiny values: a swap would pass unseen otherwise."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in reference.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += scale * noise if parameter.ndim <= 1 else 0.05 * noise
    return reference.eval()


def loaded(reference: Any, processor: Any, folder: Path) -> Model:
    """The reference's weights in our model, through its published folder; processor files from our miniature."""
    reference.save_pretrained(folder)
    processor.save(folder)
    model = chiasm.load(folder)
    for parameter in model.module.parameters():
        parameter.requires_grad_(True)
    return model


def gradients_agree(reference: nn.Module, model: Model, folder: Path, atol: float = ATOL) -> None:
    """Every parameter's gradient equals the reference's, paired by the weight table itself."""
    table = layout_for(read_config(folder)).table(model.config)
    ours = {name: parameter.grad for name, parameter in model.module.named_parameters()}
    state = {
        name: torch.zeros_like(tensor) if ours.get(name) is None else ours[name]
        for name, tensor in model.module.state_dict().items()
    }
    theirs = {name: parameter.grad for name, parameter in reference.named_parameters()}
    compared = 0
    for name, grad in table.to_theirs(state).items():
        other = theirs.get(name)
        if other is not None:
            assert (grad - other.reshape(grad.shape)).abs().max() <= atol * max(1.0, other.abs().max().item()), name
            compared += 1
    assert compared >= 0.9 * sum(grad is not None for grad in theirs.values())
