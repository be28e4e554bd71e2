"""Two layers with a GELU between them (LLaVA-1.5; Liu et al. 2024, "Improved Baselines", §3.3)."""

from __future__ import annotations

from dataclasses import dataclass

from chiasm.nn.mlp import MLP, MLPConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class MLPConnectorConfig:
    """fc2(act(fc1(x))), the hidden width being the language model's.

    Attributes:
        input_dim: width of the visual features.
        output_dim: width of the language model.
        act: activation name.
        bias: whether both layers have one.
    """

    input_dim: int
    output_dim: int
    act: str = "gelu"
    bias: bool = True

    def build(self) -> MLP:
        shape = MLPConfig(
            input_dim=self.input_dim,
            hidden_dim=self.output_dim,
            output_dim=self.output_dim,
            act=self.act,
            bias=self.bias,
        )
        return shape.build()
