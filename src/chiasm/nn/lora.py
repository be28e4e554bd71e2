"""Low-rank adaptation (Hu et al. 2022, §4.1): W x becomes W x + (α/r) B A x, with W frozen, A random, B zero.

LoRA transforms a built module: `add_lora` replaces chosen linear layers in place, `merge_lora` folds the
update into W and restores plain layers, `fold_lora` folds it for a while and `unfold_lora` takes it out again,
`lora_state` and `fold_lora_state` move the update alone.
Departure: A is drawn with deviation 1/√fan-in and no dropout is applied to x.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.core.errors import CheckpointError, ConfigError


class LoRALinear(nn.Module):
    """A frozen linear layer with a trainable update of rank r.

    Args:
        base: the layer to adapt; its parameters stop learning.
        rank: r.
        alpha: α; the update is scaled by α/r.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        # float32 whatever the base's type: small steps would vanish in bfloat16
        self.lora_a = nn.Parameter(
            torch.randn(rank, base.in_features, device=base.weight.device) * base.in_features**-0.5
        )
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))
        self._plain: torch.Tensor | None = None  # the base's own weight while the update is folded in

    @property
    def folded(self) -> bool:
        """Whether the update is in the base's weight for now."""
        return self._plain is not None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) → (..., out)."""
        if self.folded:
            return self.base(x)
        update = F.linear(F.linear(x, self.lora_a.to(x.dtype)), (self.scale * self.lora_b).to(x.dtype))
        return self.base(x) + update

    @torch.no_grad()
    def fold(self) -> None:
        """Put the update into the base's weight, computed in float32; no gradient reaches it until `unfold`."""
        if not self.folded:
            self._plain = self.base.weight.clone()
            self.base.weight.copy_((self._plain.float() + self.scale * self.lora_b @ self.lora_a).to(self._plain.dtype))

    @torch.no_grad()
    def unfold(self) -> None:
        """Give the base's weight back, bit for bit."""
        if self._plain is not None:
            self.base.weight.copy_(self._plain)
            self._plain = None

    def merged(self) -> nn.Linear:
        """The base layer with the update folded in, computed in float32."""
        self.fold()
        return self.base


def add_lora(module: nn.Module, pattern: str, rank: int, alpha: float) -> list[str]:
    """Adapt every linear layer whose full name matches, in place.

    Args:
        module: any built module.
        pattern: regular expression, matched against the whole dotted name, such as ``.*attn\\.[qv]_proj``.
        rank: r, at least 1.
        alpha: α.

    Returns:
        The names of the adapted layers.

    Raises:
        ConfigError: the rank is below 1, or no linear layer matches.
    """
    if rank < 1:
        raise ConfigError("lora_rank", f"LoRA rank {rank}, needs at least 1")
    chosen = [
        name for name, layer in module.named_modules() if isinstance(layer, nn.Linear) and re.fullmatch(pattern, name)
    ]
    if not chosen:
        raise ConfigError("lora_no_match", f"no linear layer's name matches {pattern!r}")
    for name in chosen:
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        _replace(module, name, LoRALinear(layer, rank, alpha))
    return chosen


def merge_lora(module: nn.Module) -> nn.Module:
    """Fold every update into its layer and put the plain layers back, in place; returns the module."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoRALinear):
            _replace(module, name, layer.merged())
    return module


def fold_lora(module: nn.Module) -> None:
    """Fold every update into its layer's weight, to compute without it; `unfold_lora` takes it out again."""
    for layer in module.modules():
        if isinstance(layer, LoRALinear):
            layer.fold()


def unfold_lora(module: nn.Module) -> None:
    """Undo `fold_lora`, bit for bit."""
    for layer in module.modules():
        if isinstance(layer, LoRALinear):
            layer.unfold()


def lora_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The updates alone: `<layer>.lora_a` (r, in), `<layer>.lora_b` (out, r), scaled so that the update is B A."""
    state = {}
    for name, layer in module.named_modules():
        if isinstance(layer, LoRALinear):
            state[f"{name}.lora_a"] = layer.lora_a.detach().clone()
            state[f"{name}.lora_b"] = layer.scale * layer.lora_b.detach()
    return state


def fold_lora_state(module: nn.Module, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Fold stored updates (`lora_state`) into a plain module's linear layers, in place; returns the module.

    Raises:
        CheckpointError: an update without its other half or without its layer, or of another shape.
    """
    layers = dict(module.named_modules())
    for name in sorted({key.rpartition(".")[0] for key in state}):
        a, b = state.get(f"{name}.lora_a"), state.get(f"{name}.lora_b")
        layer = layers.get(name)
        if a is None or b is None or not isinstance(layer, nn.Linear):
            raise CheckpointError(
                "lora_mismatch", f"the update of {name} needs lora_a, lora_b and a linear layer of that name"
            )
        if layer.weight.shape != (len(b), a.shape[1]) or len(a) != b.shape[1]:
            shapes = f"{tuple(b.shape)} x {tuple(a.shape)}"
            raise CheckpointError("lora_mismatch", f"{name}: update {shapes}, weight {tuple(layer.weight.shape)}")
        with torch.no_grad():
            layer.weight.add_((b.float() @ a.float()).to(layer.weight.dtype))
    return module


def _replace(module: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, new)
