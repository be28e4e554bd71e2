"""Linear layers whose matrix lies as oneDNN's kernels read it, on a CPU: the same numbers, less waiting.

A product of few rows with a large matrix spends its time bringing the matrix into the kernel's order, anew at every
call. That is done here once, for batches of running replies. One float32 row alone takes as long as before, one in
bfloat16 two thirds of it.
"""

from __future__ import annotations

import torch
from torch import nn

from chiasm.nn.quantized import QuantizedLinear
from chiasm.nn.storage import narrow_type


class PackedLinear(QuantizedLinear):
    """x Wᵀ + b with W in the kernel's order; nothing is rounded."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__(weight, bias)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 8)

    @property
    def fast(self) -> bool:
        """Always: layers elsewhere aren't packed."""
        return True

    @property
    def nbytes(self) -> int:
        """Bytes that the matrix takes."""
        return self.packed.element_size() * self.out_features * self.in_features

    def rounded(self) -> torch.Tensor:
        """(N, K) float32."""
        return self.packed.to_dense().float()

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        """(M, K) → (M, N)."""
        return torch.ops.mkldnn._linear_pointwise(rows, self.packed, None, "none", [], "")


def packable(module: nn.Module) -> bool:
    """Whether the linear layers inside are on a CPU and of one type for which this build and processor have kernels."""
    weights = [part.weight for part in module.modules() if isinstance(part, nn.Linear)]
    if {weight.device.type for weight in weights} != {"cpu"} or not torch.backends.mkldnn.is_available():
        return False
    types = {weight.dtype for weight in weights}
    return types == {torch.float32} or (types == {torch.bfloat16} and narrow_type() == torch.bfloat16)
