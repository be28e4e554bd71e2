"""Contrastive losses of two towers: InfoNCE (CLIP) and the pairwise sigmoid loss (SigLIP), for batches of any size.

InfoNCE (Radford et al. 2021, fig. 3), for unit vectors x_i, y_i, scale t (already exponentiated) and s_ij = t x_i·y_j:
    L = -1/(2B) Σ_i [ log softmax_j(s_ij)_i + log softmax_j(s_ji)_i ]
With label smoothing ε (ALIGN, Jia et al. 2021, §5), a share ε of every target is spread evenly over all B.
Sigmoid (Zhai et al. 2023, alg. 1), with z_ij = 1 on the diagonal and -1 elsewhere and bias b:
    L = -1/B Σ_ij log σ(z_ij (t x_i·y_j + b))

`same` marks pairs off the diagonal that also belong together (two pictures with one caption, say): InfoNCE shares a
row's target among them evenly, the sigmoid loss takes them for positive. Without it both are the papers' losses.

The B × B similarities of a large batch are never held at once: they are computed some rows at a time, forwards for
the loss and again backwards for its gradient, so memory grows with B alone. Over several processes (`gather`), each
has B rows of the global batch's W·B; the mean of their losses is the loss of the global batch, gradients included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from chiasm.objectives.precision import in_float32

TILE = 1 << 20  # similarities that are held at once, 4 MB; smaller batches take the plain way, which computes less


@in_float32
def info_nce(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    scale: torch.Tensor | float,
    *,
    same: torch.Tensor | None = None,
    smoothing: float = 0.0,
    tile: int = TILE,
    gather: bool = False,
) -> torch.Tensor:
    """The symmetric cross-entropy of matching every picture to its text and every text to its picture.

    Args:
        image_embeds: (B, E), L2-normalised.
        text_embeds: (B, E), L2-normalised; row i belongs to picture i.
        scale: the similarity's factor, `logit_scale.exp()`.
        same: (B, B) bool, True where picture i and text j belong together; the diagonal must be True. None = diagonal.
        smoothing: ε, the share of a target that is spread over all texts (or pictures).
        tile: similarities held at once.
        gather: the batch is spread over all processes; not together with `same`.

    Returns:
        The mean loss, a scalar; with `gather`, this process's share, whose mean over processes is the loss.
    """
    scale = torch.as_tensor(scale, dtype=image_embeds.dtype, device=image_embeds.device)
    if gather and _world() > 1:
        assert same is None, "`same` over several processes"
        images, texts = gathered(image_embeds), gathered(text_embeds)
        if len(image_embeds) * len(texts) <= tile:
            first = dist.get_rank() * len(image_embeds)
            return _cross_entropies(scale * image_embeds @ texts.T, scale * text_embeds @ images.T, first, smoothing)
        spread = _OneWay.apply(image_embeds, texts, scale, tile) + _OneWay.apply(text_embeds, images, scale, tile)
        target = (1 - smoothing) * scale * _shared(image_embeds, text_embeds, None)
        if smoothing:
            target += smoothing * scale * (image_embeds.sum(0) @ texts.mean(0) + text_embeds.sum(0) @ images.mean(0))
        return (spread - target) / (2 * len(image_embeds))
    if image_embeds.shape[0] ** 2 > tile:
        spread = _TwoWay.apply(image_embeds, text_embeds, scale, tile)
        target = (1 - smoothing) * scale * _shared(image_embeds, text_embeds, same)
        if smoothing:
            target += smoothing * 2 * scale * (image_embeds.sum(0) @ text_embeds.mean(0))
        return (spread - target) / (2 * len(image_embeds))
    logits = scale * image_embeds @ text_embeds.T  # (B, B)
    if same is None:
        return _cross_entropies(logits, logits.T, 0, smoothing)
    share = same.to(logits.dtype)
    rows = F.cross_entropy(logits, share / share.sum(1, keepdim=True), label_smoothing=smoothing)
    columns = F.cross_entropy(logits.T, share.T / share.T.sum(1, keepdim=True), label_smoothing=smoothing)
    return (rows + columns) / 2


@in_float32
def sigmoid_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    scale: torch.Tensor | float,
    bias: torch.Tensor | float,
    *,
    same: torch.Tensor | None = None,
    tile: int = TILE,
    gather: bool = False,
) -> torch.Tensor:
    """The logistic loss of telling, for each of the B² pairs alone, whether it belongs together.

    Args:
        image_embeds, text_embeds, scale, same, tile, gather: see `info_nce`.
        bias: added to every similarity.

    Returns:
        The sum over pairs divided by B, a scalar; with `gather`, this process's share of it.
    """
    scale, bias = (torch.as_tensor(v, dtype=image_embeds.dtype, device=image_embeds.device) for v in (scale, bias))
    first = 0
    if gather and _world() > 1:
        assert same is None, "`same` over several processes"
        text_embeds, first = gathered(text_embeds), dist.get_rank() * len(image_embeds)
    if len(image_embeds) * len(text_embeds) > tile:
        return _Pairwise.apply(image_embeds, text_embeds, scale, bias, same, first, tile) / len(image_embeds)
    logits = scale * image_embeds @ text_embeds.T + bias  # (B, B)
    wrong = torch.where(_positive(logits, same, first), -logits, logits)
    return F.softplus(wrong).sum() / len(logits)


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """Every process's (B, …) in the order of ranks, (W·B, …); gradients go back to their owners."""
    return _Gather.apply(tensor)


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _positive(block: torch.Tensor, same: torch.Tensor | None, first: int) -> torch.Tensor:
    """Which of (rows, B) similarities belong together: those of row i at column `first` + i, or `same`."""
    if same is not None:
        return same[first : first + len(block)]
    column = torch.arange(block.shape[1], device=block.device)
    return column == column[first : first + len(block), None]


def _shared(images: torch.Tensor, texts: torch.Tensor, same: torch.Tensor | None) -> torch.Tensor:
    """Σ of all pairs' products x_i·y_j, weighed by their share of the row's target and of the column's."""
    if same is None:
        return 2 * torch.dot(images.flatten(), texts.flatten())
    share = same.to(images.dtype)
    return ((share @ texts) * images / share.sum(1, keepdim=True)).sum() + (
        (share.T @ images) * texts / share.T.sum(1, keepdim=True)
    ).sum()


def _cross_entropies(rows: torch.Tensor, columns: torch.Tensor, first: int, smoothing: float) -> torch.Tensor:
    """The mean loss of (B, W·B) logits both ways, row i's own at column `first` + i.

    Row by row, each from its own largest logit: sums of whole logits, tens of them, would lose what is left of the
    difference in float32, and one process and several would differ by it.
    """
    own = torch.arange(first, first + len(rows), device=rows.device)
    across, down = (F.cross_entropy(logits, own, label_smoothing=smoothing) for logits in (rows, columns))
    return (across + down) / 2


def _blocks(x: torch.Tensor, y: torch.Tensor, tile: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Some rows at a time, and their (rows, B) products with all of y, in one buffer: no block outlives its turn."""
    step = min(len(x), max(1, tile // len(y)))
    buffer = x.new_empty(step, len(y))
    for at in range(0, len(x), step):
        rows = slice(at, min(at + step, len(x)))
        yield rows, torch.mm(x[rows], y.T, out=buffer[: rows.stop - at])


class _OneWay(torch.autograd.Function):
    """Σ_i log Σ_j exp(t x_i·y_j), some rows at a time. d/ds_ij = softmax_j(s_i·)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor, tile: int) -> torch.Tensor:
        """(B, E) x, (W·B, E) y, scale t → a scalar."""
        across = x.new_empty(len(x))
        for rows, block in _blocks(x, y, tile):
            across[rows] = block.mul_(scale).logsumexp(1)
        ctx.save_for_backward(x, y, scale, across)
        ctx.tile = tile
        return across.double().sum().to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, y, scale, across = ctx.saved_tensors
        sums = _Sums(x, y, scale)
        for rows, block in _blocks(x, y, ctx.tile):
            sums.add(rows, block.mul_(scale).sub_(across[rows, None]).exp_())
        return *sums.scaled(grad), None


class _TwoWay(torch.autograd.Function):
    """Σ_i log Σ_j exp(s_ij) + Σ_j log Σ_i exp(s_ij), s_ij = t x_i·y_j, some rows at a time."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor, tile: int) -> torch.Tensor:
        """(B, E) x, (B, E) y, scale t → a scalar."""
        across, down = x.new_empty(len(x)), x.new_full((len(y),), -torch.inf)
        for rows, block in _blocks(x, y, tile):
            across[rows] = block.mul_(scale).logsumexp(1)
            torch.logaddexp(down, block.logsumexp(0), out=down)
        ctx.save_for_backward(x, y, scale, across, down)
        ctx.tile = tile
        return (across.double().sum() + down.double().sum()).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, y, scale, across, down = ctx.saved_tensors
        sums = _Sums(x, y, scale)
        for rows, block in _blocks(x, y, ctx.tile):
            both = block.mul_(scale).sub(down).exp_()
            both.add_(block.sub_(across[rows, None]).exp_())
            sums.add(rows, both)
        return *sums.scaled(grad), None


class _Pairwise(torch.autograd.Function):
    """Σ_ij softplus(-z_ij (t x_i·y_j + b)), some rows at a time. d/ds_ij = -z_ij σ(-z_ij s_ij)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        y: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        same: torch.Tensor | None,
        first: int,
        tile: int,
    ) -> torch.Tensor:
        """(B, E) x, (W·B, E) y, scale t, bias b, (B, W·B) `same` or None → a scalar."""
        ctx.save_for_backward(x, y, scale, bias)
        ctx.rest = same, first, tile
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        for rows, block in _blocks(x, y, tile):
            block.mul_(scale).add_(bias)
            total += F.softplus(torch.where(_positive(block, same, first + rows.start), -block, block)).sum().double()
        return total.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, y, scale, bias = ctx.saved_tensors
        same, first, tile = ctx.rest
        sums, offset = _Sums(x, y, scale), torch.zeros_like(bias)
        for rows, block in _blocks(x, y, tile):
            block.mul_(scale).add_(bias).sigmoid_()
            block.sub_(
                _positive(block, same, first + rows.start).to(block.dtype)
            )  # σ(s) - 1 = -σ(-s) where a pair belongs together
            sums.add(rows, block)
            offset += block.sum()
        return *sums.scaled(grad), grad * offset, None, None, None


class _Sums:
    """Gradients of Σ over s_ij = t x_i·y_j, gathered from blocks of d/ds_ij."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor) -> None:
        self.x, self.y, self.scale = x, y, scale
        self.to_x, self.to_y = torch.empty_like(x), torch.zeros_like(y)

    def add(self, rows: slice, block: torch.Tensor) -> None:
        """Take the (rows, B) derivatives of some rows."""
        torch.mm(block, self.y, out=self.to_x[rows])
        self.to_y.addmm_(block.T, self.x[rows])

    def scaled(self, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of x, y and t."""
        to_scale = (self.to_x * self.x).sum() * grad
        factor = grad * self.scale
        return self.to_x.mul_(factor), self.to_y.mul_(factor), to_scale


class _Gather(torch.autograd.Function):
    """All processes' rows; backwards, every process's gradient for them, summed."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        """(B, …) of each of W processes → (W·B, …)."""
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]
