"""Linear layers with whole numbers for weights: 8 bits a channel, or 4 bits a group.

Eight bits: a row of the matrix is w ≈ s·c with c in −127…127 (one s an output channel). On processors with fast 8-bit
products the input is rounded to 8 bits, too, each token by its own largest number (as in Dettmers et al. 2022,
"LLM.int8()", §2.1, vector-wise), so that what a token gives never depends on its neighbours in the batch.
Four bits: every 32 numbers of a row are w ≈ s·(c − 8) + z with c in 0…15, s and z in bfloat16; inputs are bfloat16.
What rounding takes away is noise, except where it isn't: a model tuned by a low-rank update from weights that were
rounded to four bits before falls back on them, and loses the update whole. So directions of the error that noise
wouldn't have are kept beside the codes, as a product of two thin matrices (as in Yao et al. 2023, "ZeroQuant-V2", §5,
low-rank compensation; there of a fixed rank).

Elsewhere (a GPU, a processor without these kernels) the weights are turned back to numbers for each product: slower,
the same memory saved. Gradients reach the input only where that is so; nothing here can be trained.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

GROUP = 32  # numbers that share a scale in four bits; the smallest that the kernel takes, so the most exact
MOST_DIRECTIONS = 32  # of the error in four bits that are kept
_multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
_BEYOND_NOISE = 1.5  # times the largest singular value that noise of the error's size has


class QuantizedLinear(nn.Module, ABC):
    """x Wᵀ + b with a quantized W.

    Args:
        weight: (N, K), taken over in its rounded form.
        bias: (N,), kept as it is; None = none.
    """

    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.biased = bias is not None
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    @abstractmethod
    def rounded(self) -> torch.Tensor:
        """(N, K) float32, the matrix that products are really taken with."""

    @abstractmethod
    def product(self, rows: torch.Tensor) -> torch.Tensor:
        """(M, K) rows → (M, N) by the fast kernel, without bias."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that the matrix takes."""

    @property
    @abstractmethod
    def fast(self) -> bool:
        """Whether there is a kernel for where the weights are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, K) → (…, N), in x's type."""
        if not self.fast:
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return F.linear(x, self.rounded().to(x.dtype), bias)
        out = self.product(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)
        out = out if out.dtype == x.dtype else out.to(x.dtype)
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        """As `nn.Linear` shows itself."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Int8Linear(QuantizedLinear):
    """Eight bits a weight."""

    codes: torch.Tensor | None
    scales: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__(weight, bias)
        codes, scales = int8_codes(weight)
        self.packed = _pack_int8(codes, scales)
        self.register_buffer("codes", None if self.packed is not None else codes)
        self.register_buffer("scales", scales)
        self.levels = 127 if torch.cpu._is_vnni_supported() else 63  # without VNNI sums of two products overflow

    @property
    def fast(self) -> bool:
        """Whether there is a kernel for where the weights are."""
        return self.packed is not None and self.scales.device.type == "cpu"

    @property
    def nbytes(self) -> int:
        """Bytes that the matrix takes."""
        return self.out_features * (self.in_features + 4)

    def rounded(self) -> torch.Tensor:
        """(N, K) float32."""
        codes = self.codes if self.packed is None else torch.ops.quantized.linear_unpack(self.packed)[0].int_repr()
        assert codes is not None
        return codes.to(self.scales.device).float() * self.scales[:, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, K) → (…, N), in x's type."""
        if x.numel() != self.in_features or x.dtype != torch.float32 or self.packed is None or not x.is_cpu:
            return super().forward(x)
        # one new token: the kernel takes its peak as the scale, and nothing around it is left to do
        low, high = torch.aminmax(x)
        peak = max(-float(low), float(high), 1e-30)
        out = _multiply(x, peak / self.levels, self.levels + 1, self.packed)
        return out + self.bias if self.biased else out

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        """(M, K) → (M, N)."""
        rows = rows if rows.dtype == torch.float32 else rows.float()
        peaks = rows.abs().amax(1, keepdim=True).clamp_(min=1e-30)  # (M, 1)
        # every row now lies in −1…1, and the kernel rounds all of them alike
        return _multiply(rows / peaks, 1 / self.levels, self.levels + 1, self.packed).mul_(peaks)


class Int4Linear(QuantizedLinear):
    """Four bits a weight, in groups of 32."""

    packed: torch.Tensor
    scales: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__(weight, bias)
        codes, scales = int4_codes(weight)
        left, right = directions(weight.detach().float() - int4_numbers(codes, scales))
        self.register_buffer("left", left)  # (N, R)
        self.register_buffer("right", right)  # (R, K)
        self.fits = fits_int4(weight) and weight.device.type == "cpu"
        if self.fits:
            packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        else:
            packed = (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8)
        self.register_buffer("packed", packed)
        self.register_buffer("scales", scales)  # (K / GROUP, N, 2): s and z

    @property
    def fast(self) -> bool:
        """Whether there is a kernel for where the weights are."""
        return self.fits and self.packed.device.type == "cpu"

    @property
    def nbytes(self) -> int:
        """Bytes that the matrix takes."""
        beside = self.left.nbytes + self.right.nbytes
        return self.out_features * self.in_features // 2 + 2 * self.scales.numel() + beside

    def rounded(self) -> torch.Tensor:
        """(N, K) float32."""
        if self.fits:
            one = torch.eye(self.in_features, dtype=torch.bfloat16)
            codes = torch.ops.aten._weight_int4pack_mm_for_cpu(
                one, self.packed.cpu(), GROUP, _plain_scales(self.scales)
            )
            codes = codes.t().to(self.scales.device).int() + 8
        else:
            codes = torch.stack((self.packed & 15, self.packed >> 4), -1).flatten(1)
        return torch.addmm(int4_numbers(codes, self.scales), self.left, self.right)

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        """(M, K) → (M, N)."""
        narrow = rows.to(torch.bfloat16).contiguous()
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(narrow, self.packed, GROUP, self.scales)
        if not len(self.right):
            return out
        wide = rows.to(self.right.dtype)
        return torch.addmm(out.to(wide.dtype), wide @ self.right.t(), self.left.t())


def int8_codes(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, K) → int8 codes (N, K) and float32 scales (N,): the nearest of 255 evenly spaced numbers around zero."""
    wide = weight.detach().float()
    scales = (wide.abs().amax(1) / 127).clamp(min=1e-30)
    return (wide / scales[:, None]).round().clamp(-127, 127).to(torch.int8), scales


def int4_codes(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, K) → codes 0…15 (N, K), int32, and bfloat16 scales and zeros (K / GROUP, N, 2).

    A group's codes are first spread between its ends; then scale and zero are fitted to them by least squares, and the
    numbers rounded again.
    """
    groups = weight.detach().float().unflatten(1, (-1, GROUP))  # (N, K / GROUP, GROUP)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = ((high - low) / 15).clamp(min=1e-30)
    codes = _nearest(groups, scale, low + 8 * scale)
    middle, mean = codes.mean(-1, keepdim=True), groups.mean(-1, keepdim=True)
    spread = (codes - middle).square().sum(-1, keepdim=True)
    fitted = ((codes - middle) * (groups - mean)).sum(-1, keepdim=True) / spread
    scale = torch.where(spread > 0, fitted, scale).bfloat16()
    zero = (mean - scale.float() * middle).bfloat16()
    codes = _nearest(groups, scale.float(), zero.float()).int() + 8
    return codes.flatten(1), torch.cat((scale, zero), -1).transpose(0, 1).contiguous()


def int4_numbers(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Codes and scales as of `int4_codes` → the (N, K) float32 numbers that they stand for."""
    scale, zero = scales.float().transpose(0, 1).unbind(-1)  # (N, K / GROUP)
    grouped = codes.unflatten(1, (-1, GROUP)).float() - 8  # (N, K / GROUP, GROUP)
    return (grouped * scale[..., None] + zero[..., None]).flatten(1)


def directions(error: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What of an error isn't noise.

    Args:
        error: (N, K); its rows may differ in size.

    Returns:
        (N, R) and (R, K), whose product holds the singular directions, of rows made alike in size, that stand out of
        noise: beyond √N + √K (Bai and Yin 1993). R may be 0.
    """
    rows, columns = error.shape
    sizes = error.square().mean(1, keepdim=True).sqrt().clamp(min=1e-30)  # (N, 1)
    alike, count = error / sizes, min(MOST_DIRECTIONS + 8, rows, columns)
    probe = torch.randn(columns, count, generator=torch.Generator().manual_seed(0)).to(error.device)
    for _ in range(2):  # subspace iteration (Halko et al. 2011, algorithm 4.4)
        basis = torch.linalg.qr(alike @ probe).Q  # (N, R)
        probe = alike.t() @ basis
    left, values, right = torch.linalg.svd(probe.t(), full_matrices=False)
    kept = int((values[:MOST_DIRECTIONS] > _BEYOND_NOISE * (rows**0.5 + columns**0.5)).sum())
    return (sizes * (basis @ left[:, :kept]) * values[:kept]).contiguous(), right[:kept].contiguous()


def _nearest(groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    return ((groups - zero) / scale).round().clamp(-8, 7)


def fits_int4(weight: torch.Tensor) -> bool:
    """Whether the four-bit kernel takes matrices of this shape."""
    return weight.shape[0] % 16 == 0 and weight.shape[1] % GROUP == 0


def _plain_scales(like: torch.Tensor) -> torch.Tensor:
    """Scales with which the four-bit kernel gives codes − 8."""
    return torch.stack((torch.ones_like(like[..., 0]), torch.zeros_like(like[..., 0])), -1).cpu()


def _pack_int8(codes: torch.Tensor, scales: torch.Tensor) -> Any:
    """The matrix in the kernel's own order, or None where this build of torch or this device has no such kernel."""
    if codes.device.type != "cpu" or "fbgemm" not in torch.backends.quantized.supported_engines:
        return None
    before = torch.backends.quantized.engine
    with warnings.catch_warnings():
        # torch announces that tensors of whole numbers will go; without them the weights are turned back each time
        warnings.simplefilter("ignore", UserWarning)
        try:
            torch.backends.quantized.engine = "fbgemm"
            zeros = torch.zeros(len(codes), dtype=torch.int64)
            matrix = torch._make_per_channel_quantized_tensor(codes, scales.double(), zeros, 0)
            packed = torch.ops.quantized.linear_prepack(matrix, None)
            _multiply(torch.zeros(1, codes.shape[1]), 1.0, 0, packed)
            return packed
        except (AttributeError, RuntimeError, NotImplementedError):
            return None
        finally:
            torch.backends.quantized.engine = before
