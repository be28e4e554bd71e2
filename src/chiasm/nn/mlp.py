"""Two-layer and gated MLPs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from chiasm.nn.activations import activation


@dataclass(frozen=True, kw_only=True, slots=True)
class MLPConfig:
    """fc2(act(fc1(x))).

    Attributes:
        input_dim: D.
        hidden_dim: M.
        output_dim: width of the result; None = D.
        act: name in `nn.activations`.
        bias: whether both layers have one.
        inner_norm_eps: ε of a LayerNorm before the second layer (Wang et al. 2022, "Magneto", §3.2); None = none.
    """

    input_dim: int
    hidden_dim: int
    output_dim: int | None = None
    act: str = "gelu"
    bias: bool = True
    inner_norm_eps: float | None = None

    def build(self) -> MLP:
        return MLP(self)


class MLP(nn.Module):
    """The transformer's feed-forward layer (Vaswani et al. 2017, §3.3)."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.input_dim, config.hidden_dim, bias=config.bias)
        self.fc2 = nn.Linear(config.hidden_dim, config.output_dim or config.input_dim, bias=config.bias)
        self.act = activation(config.act)
        eps = config.inner_norm_eps
        self.inner_norm = nn.Identity() if eps is None else nn.LayerNorm(config.hidden_dim, eps=eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D) → (..., output_dim)."""
        return self.fc2(self.inner_norm(self.act(self.fc1(x))))


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedMLPConfig:
    """down(act(gate(x)) · up(x)) (Shazeer 2020, eq. 5).

    Attributes:
        input_dim: D.
        hidden_dim: M.
        act: name in `nn.activations`.
        bias: whether the three layers have one.
    """

    input_dim: int
    hidden_dim: int
    act: str = "silu"
    bias: bool = False

    def build(self) -> GatedMLP:
        return GatedMLP(self)


class GatedMLP(nn.Module):
    """The LLaMA family's feed-forward layer; `nn.quantizing` may join its first two products into `gate_up_proj`."""

    def __init__(self, config: GatedMLPConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.input_dim, config.hidden_dim, bias=config.bias)
        self.up_proj = nn.Linear(config.input_dim, config.hidden_dim, bias=config.bias)
        self.down_proj = nn.Linear(config.hidden_dim, config.input_dim, bias=config.bias)
        self.gate_up_proj: nn.Module | None = None
        self.act = activation(config.act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D) → (..., D)."""
        if self.gate_up_proj is not None:
            gate, up = self.gate_up_proj(x).chunk(2, -1)
            return self.down_proj(self.act(gate) * up)
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))
