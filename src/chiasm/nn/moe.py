"""Mixture of experts: a router picks a few gated MLPs a token, a shared one may see every token.

`SoftmaxRouter`: OLMoE (Muennighoff et al. 2024, §2) and its kin: softmax over all experts, then the best k.
`SigmoidRouter`: DeepSeek-V3 (2024, §2.1.2): sigmoid scores, choice by score plus a balancing bias within the best
groups of experts, weights from the scores alone. Expert weights are stacked, (E, 2M, D) and (E, D, M); tokens are
sorted by expert, so that each expert's matrices are read once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.core.errors import ConfigError
from chiasm.nn.activations import activation
from chiasm.nn.mlp import GatedMLPConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftmaxRouterConfig:
    """Softmax over all experts, then the best k.

    Attributes:
        normalise: whether the k weights are made to sum to 1.
    """

    normalise: bool = False

    def build(self, num_experts: int, top_k: int, dim: int) -> SoftmaxRouter:
        return SoftmaxRouter(self, num_experts, top_k, dim)


class SoftmaxRouter(nn.Module):
    """One row of weights an expert."""

    def __init__(self, config: SoftmaxRouterConfig, num_experts: int, top_k: int, dim: int) -> None:
        super().__init__()
        self.normalise, self.top_k = config.normalise, top_k
        self.weight = nn.Parameter(torch.zeros(num_experts, dim))

    def init_weights(self) -> None:
        """Draw the router as the reference does."""
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(T, D) → weights (T, k) and experts (T, k)."""
        weights, experts = F.linear(x, self.weight).float().softmax(-1).topk(self.top_k, -1)
        if self.normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights.to(x.dtype), experts


@dataclass(frozen=True, kw_only=True, slots=True)
class SigmoidRouterConfig:
    """Sigmoid scores, a choice biased for balance and limited to the best groups.

    Attributes:
        groups: how many groups the experts stand in.
        top_groups: how many of them may be chosen from, by the sum of their two best.
        normalise: whether the k weights are made to sum to 1.
        scale: what the weights are multiplied by.
    """

    groups: int = 1
    top_groups: int = 1
    normalise: bool = True
    scale: float = 1.0

    def build(self, num_experts: int, top_k: int, dim: int) -> SigmoidRouter:
        in_pairs = self.groups == 1 or num_experts >= 2 * self.groups  # a group's score is that of its two best
        if not 1 <= self.top_groups <= self.groups or num_experts % self.groups or not in_pairs:
            told = f"{self.top_groups} groups of {self.groups}, in which {num_experts} experts stand"
            raise ConfigError("config_value", f"a token may take experts of {told}")
        return SigmoidRouter(self, num_experts, top_k, dim)


class SigmoidRouter(nn.Module):
    """One row of weights an expert, and a bias that only the choice sees; training moves it by rule, not gradient."""

    bias: torch.Tensor

    def __init__(self, config: SigmoidRouterConfig, num_experts: int, top_k: int, dim: int) -> None:
        super().__init__()
        self.config, self.top_k, self.num_experts = config, top_k, num_experts
        self.weight = nn.Parameter(torch.zeros(num_experts, dim))
        self.register_buffer("bias", torch.zeros(num_experts))

    def init_weights(self) -> None:
        """Draw the router as the reference does; the bias starts at zero."""
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(T, D) → weights (T, k) and experts (T, k)."""
        config = self.config
        scores = F.linear(x.float(), self.weight.float()).sigmoid()
        choice = scores + self.bias
        if config.groups > 1:
            grouped = choice.view(len(x), config.groups, -1)
            best = grouped.topk(2, -1).values.sum(-1).topk(config.top_groups, -1).indices
            allowed = torch.zeros(len(x), config.groups, dtype=torch.bool, device=x.device).scatter_(1, best, True)
            choice = grouped.masked_fill(~allowed[..., None], -torch.inf).flatten(1)
        experts = choice.topk(self.top_k, -1).indices
        weights = scores.gather(1, experts)
        if config.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return (weights * config.scale).to(x.dtype), experts


@dataclass(frozen=True, kw_only=True, slots=True)
class MoEConfig:
    """A mixture in an MLP's place.

    Attributes:
        input_dim: D.
        num_experts, top_k: E, and how many a token takes.
        expert_dim: hidden width of one expert.
        shared_dim: hidden width of the shared expert; 0 = none.
        router: how experts are chosen.
        act: activation of the gates.
    """

    input_dim: int
    num_experts: int
    top_k: int
    expert_dim: int
    shared_dim: int = 0
    router: SoftmaxRouterConfig | SigmoidRouterConfig = SoftmaxRouterConfig()
    act: str = "silu"

    def build(self) -> MoE:
        if not 1 <= self.top_k <= self.num_experts:
            raise ConfigError("config_value", f"a token takes {self.top_k} experts of {self.num_experts}")
        return MoE(self)


class MoE(nn.Module):
    """Every token through its k experts, weighted, and through the shared one.

    Attributes:
        mixes_tokens: an expert's products have as many rows as tokens chose it, so their last bits hang on all tokens.
    """

    mixes_tokens = True

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        width, inner = config.input_dim, config.expert_dim
        self.router = config.router.build(config.num_experts, config.top_k, width)
        self.gate_up = nn.Parameter(torch.zeros(config.num_experts, 2 * inner, width))
        self.down = nn.Parameter(torch.zeros(config.num_experts, width, inner))
        self.shared: nn.Module | None = None
        if config.shared_dim:
            self.shared = GatedMLPConfig(input_dim=width, hidden_dim=config.shared_dim, act=config.act).build()
        self.act = activation(config.act)

    def init_weights(self) -> None:
        """Draw the experts as the reference does."""
        nn.init.normal_(self.gate_up, std=0.02)
        nn.init.normal_(self.down, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D) → (..., D)."""
        tokens = x.reshape(-1, x.shape[-1])
        weights, experts = self.router(tokens)
        order = experts.flatten().argsort(stable=True)
        counts = experts.flatten().bincount(minlength=self.config.num_experts).tolist()
        rows = order // self.config.top_k  # which token each sorted entry is of
        pieces = tokens[rows].split(counts)
        outputs = []
        for expert, piece in enumerate(pieces):
            if len(piece):
                gate, up = F.linear(piece, self.gate_up[expert]).chunk(2, -1)
                outputs.append(F.linear(self.act(gate) * up, self.down[expert]))
        mixed = torch.cat(outputs) * weights.flatten()[order, None]
        out = torch.zeros_like(tokens).index_add(0, rows, mixed).view(x.shape)
        return out if self.shared is None else out + self.shared(x)
