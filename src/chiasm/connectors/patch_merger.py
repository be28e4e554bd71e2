"""Neighbouring patches side by side, then two layers: Qwen2-VL's merger (Wang et al. 2024, §2.1), Kimi-VL's projector.

Patches are normalised one by one, `merge`² of them are joined into one vector, and an MLP brings it to the language
model's width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chiasm.nn.activations import activation
from chiasm.nn.norms import RMSNorm


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchMergerConfig:
    """fc2(act(fc1(join(norm(patches))))).

    Attributes:
        input_dim: D of one patch.
        output_dim: width of the language model.
        merge: patches along one side of a visual token.
        norm_eps: ε of the norm.
        rms_norm: RMSNorm (Qwen2.5-VL), not LayerNorm.
        act: activation name.
    """

    input_dim: int
    output_dim: int
    merge: int = 2
    norm_eps: float = 1e-6
    rms_norm: bool = False
    act: str = "gelu"

    def build(self) -> PatchMerger:
        return PatchMerger(self)


class PatchMerger(nn.Module):
    """Packed patches → packed visual tokens."""

    def __init__(self, config: PatchMergerConfig) -> None:
        super().__init__()
        self.joined = config.input_dim * config.merge**2
        self.norm = (RMSNorm if config.rms_norm else nn.LayerNorm)(config.input_dim, eps=config.norm_eps)
        self.fc1 = nn.Linear(self.joined, self.joined)
        self.fc2 = nn.Linear(self.joined, config.output_dim)
        self.act = activation(config.act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(P, D), the patches of a visual token side by side → (P / merge², output_dim)."""
        return self.fc2(self.act(self.fc1(self.norm(x).view(-1, self.joined))))
