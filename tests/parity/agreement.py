"""Shared by the parity tests: a reference's weights in our model, through its published folder; equal gradients."""

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


def loaded(reference: Any, processor: Any, folder: Path) -> Model:
    """The reference's weights in our model, through its published folder; processor files from our miniature."""
    reference.save_pretrained(folder)
    processor.save(folder)
    return chiasm.load(folder)


def gradients_agree(reference: nn.Module, model: Model, folder: Path, *, atol: float = ATOL) -> None:
    """Every parameter's gradient equals the reference's, paired by the weight table itself.

    Args:
        reference, model: after the same backward pass.
        folder: the reference's.
        atol: the largest difference.
    """
    table = layout_for(read_config(folder)).table(model.config)
    ours = {name: parameter.grad for name, parameter in model.module.named_parameters()}
    state = {
        name: torch.zeros_like(tensor) if ours.get(name) is None else ours[name]
        for name, tensor in model.module.state_dict().items()
    }
    theirs = {name: parameter.grad for name, parameter in reference.named_parameters()}
    compared = 0
    for name, grad in table.to_theirs(state).items():
        other = next((theirs[key] for key in spellings(name) if theirs.get(key) is not None), None)
        if other is not None:
            gap = (grad - other.reshape(grad.shape)).abs().max()
            assert gap <= atol, (name, gap, other.abs().max())
            compared += 1
    assert compared == sum(grad is not None for grad in theirs.values())


def spellings(saved: str) -> list[str]:
    """How transformers names a saved tensor in memory."""
    return [
        saved,
        f"model.{saved}",
        saved.replace("language_model.model.", "model.language_model."),
        saved.removeprefix("language_model."),
        "model.language_model." + saved.removeprefix("model."),
    ]
