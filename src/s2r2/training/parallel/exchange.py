"""Tensors that the processes of a run bring together in a step."""

from collections.abc import Iterable

import torch.distributed as dist
from torch import Tensor

from s2r2.distributed.processes import Processes
from s2r2.losses.distributed import gather, gather_sizes


def mean(processes: Processes, value: Tensor) -> Tensor:
    """Mean of a tensor over the processes."""
    if processes.world_size == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / processes.world_size


def all_rows(processes: Processes, local: Tensor) -> Tensor:
    """Rows ``(n, ...)`` of all processes together, ``(N, ...)``, without gradient."""
    if processes.world_size == 1:
        return local
    assert dist.group.WORLD is not None
    return gather(local.detach(), gather_sizes(local, dist.group.WORLD), dist.group.WORLD)


def average_gradients(processes: Processes, parameters: Iterable[Tensor]) -> None:
    """Do for parameters outside the encoder what DDP does for the encoder's."""
    if processes.world_size == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= processes.world_size
