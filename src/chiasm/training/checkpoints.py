"""Checkpoints of a run: trainable parameters, AdamW's moments, the step. A checkpoint is there whole or not at all.

`checkpoints/step-00000100/` holds `model.safetensors`, `optimizer.safetensors` and `state.json`. The folder is
written under another name, synced, and renamed; the former checkpoint goes only after that.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from chiasm.core.errors import CheckpointError

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What `save` stores."""

    step: int
    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Store a checkpoint and drop the older ones.

    Args:
        folder: holds the run's checkpoints.
        checkpoint: what to store.

    Returns:
        The checkpoint's own folder.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    if final.exists():
        return final
    partial = folder / f".{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in checkpoint.parameters.items()},
        partial / "model.safetensors",
    )
    moments = {}
    for name, parameter in checkpoint.parameters.items():
        state = checkpoint.optimizer.state.get(parameter, {})
        moments.update(
            {f"{name}:{moment}": state[moment].detach().contiguous() for moment in _MOMENTS if moment in state}
        )
    save_file(moments, partial / "optimizer.safetensors")
    (partial / "state.json").write_text(json.dumps({"step": checkpoint.step}))
    for path in (*partial.iterdir(), partial):
        _sync(path)
    partial.rename(final)
    _sync(folder)
    for old in folder.glob("step-*"):
        if old.name < final.name:
            shutil.rmtree(old)
    return final


def load_latest(folder: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Put the newest checkpoint's values into the parameters and the optimizer.

    Returns:
        The number of steps it holds; 0 when there is none.

    Raises:
        CheckpointError: its parameters are not the module's, by name or shape.
    """
    found = sorted(folder.glob("step-*"))
    if not found:
        return 0
    tensors, moments = load_file(found[-1] / "model.safetensors"), load_file(found[-1] / "optimizer.safetensors")
    for name in sorted(set(tensors) ^ set(parameters)):
        where = "the module" if name in tensors else "the checkpoint"
        raise CheckpointError(
            "checkpoint_mismatch", f"{found[-1]}: {where} has no trainable {name}", hint="another --out folder"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            if tensors[name].shape != parameter.shape:
                shapes = f"{tuple(tensors[name].shape)}, the module's {tuple(parameter.shape)}"
                raise CheckpointError(
                    "checkpoint_mismatch", f"{found[-1]}: {name} is {shapes}", hint="another --out folder"
                )
            parameter.copy_(tensors[name])
            state = {moment: moments[f"{name}:{moment}"] for moment in _MOMENTS if f"{name}:{moment}" in moments}
            if state:
                optimizer.state[parameter] = state
    step = json.loads((found[-1] / "state.json").read_text())["step"]
    assert isinstance(step, int)
    return step


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
