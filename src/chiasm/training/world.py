"""The processes of a run: one, or those that `torchrun` started, with copies (DDP) or shards (FSDP2) of the model.

Zhao et al. 2023 (FSDP); `fully_shard` splits every parameter by its first dimension over the processes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from chiasm.core.devices import device_called

BLOCK = re.compile(r"(^|\.)blocks\.\d+$")


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process among the others.

    Attributes:
        rank: its number.
        size: how many there are.
        device: where it computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """The sums of numbers over all processes, the same on every one."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            dist.barrier()


ALONE = World()


@contextmanager
def joined(device: str = "auto") -> Iterator[World]:
    """The world that `torchrun`'s environment describes, or this process alone.

    Args:
        device: ``auto`` (a GPU of its own where there is one) or any torch device.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    place = _device(device)
    if size == 1:
        yield World(device=place)
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield World(rank=rank, size=size, device=place)
    finally:
        dist.destroy_process_group()


def _device(name: str) -> torch.device:
    if name != "auto":
        return device_called(name)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


class Step(nn.Module):
    """Module and objective as one module, so that what watches `forward` (DDP, FSDP) sees the whole step."""

    def __init__(self, module: nn.Module, objective: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.module, self.objective = module, objective

    def forward(self, batch: Any) -> Any:
        """The objective's scalars of one batch."""
        return self.objective(self.module, batch)


def spread(step: Step, world: World, parallel: str) -> nn.Module:
    """Prepare a step for the world: wrapped for DDP, its parameters sharded in place for FSDP, or as it is."""
    if world.size == 1:
        return step
    if parallel == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(world.device.type, (world.size,))
        single = {parameter for parameter in step.parameters() if not parameter.ndim}  # a number can't be cut
        for name, part in step.named_modules():
            if BLOCK.search(name):
                fully_shard(part, mesh=mesh, ignored_params=single & set(part.parameters()))
        fully_shard(step, mesh=mesh, ignored_params=single)
        return step
    # a tower's last layers may be read by nobody, and a batch may lack a modality
    return nn.parallel.DistributedDataParallel(step, find_unused_parameters=True, broadcast_buffers=False)


def unsynced(spread_step: nn.Module, last: bool) -> Any:
    """A context in which gradients stay where they are until the last part of a step."""
    if not last and isinstance(spread_step, nn.parallel.DistributedDataParallel):
        return spread_step.no_sync()
    return nullcontext()


def settle(parameters: Iterable[nn.Parameter], world: World, most: float) -> float:
    """Average the gradients of whole parameters among sharded ones, and clip all of them together.

    Args:
        parameters: with gradients, or without.
        world: the processes.
        most: the largest norm; infinity = only measure.

    Returns:
        The norm before clipping.
    """
    given = [parameter for parameter in parameters if parameter.grad is not None]
    if world.size == 1 or not any(is_shard(parameter) for parameter in given):
        return float(nn.utils.clip_grad_norm_(given, most))
    squares = {True: 0.0, False: 0.0}
    for parameter in given:
        grad = parameter.grad
        assert grad is not None
        if not is_shard(parameter):
            dist.all_reduce(grad)
            grad.div_(world.size)
        local = grad.to_local() if is_shard(grad) else grad  # type: ignore[attr-defined]
        squares[is_shard(parameter)] += float(local.double().square().sum())
    norm = float((world.sum(squares[True])[0] + squares[False]) ** 0.5)
    factor = most / (norm + 1e-6)
    if factor < 1:
        for parameter in given:
            assert parameter.grad is not None
            parameter.grad.mul_(factor)
    return norm


def is_shard(tensor: torch.Tensor) -> bool:
    """Whether this process holds only a part of the tensor."""
    return hasattr(tensor, "device_mesh")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor put together from the processes' shards; every process must ask."""
    return tensor.full_tensor() if is_shard(tensor) else tensor  # type: ignore[attr-defined]


def like(full: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
    """A whole tensor laid out as `local` is: the same shards on the same processes."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(local, DTensor):
        return full.to(local.device)
    return distribute_tensor(full.to(local.device_mesh.device_type), local.device_mesh, local.placements)
