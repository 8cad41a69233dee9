"""Every process sees everybody's embeddings, and remote gradients come home.

Each process ranks its own queries against the candidates of all W processes and returns
``W / (valid queries everywhere) * sum of its own losses``. Backward sums the gradients of one embedding over all
processes; DDP then averages parameter gradients over W. Together that is exactly the gradient of one process on the
whole batch, also when groups are ragged or processes hold different numbers of embeddings.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from s2r2.errors import ArgumentError
from s2r2.losses.refusals import once

Distributed = Literal["auto"] | bool | dist.ProcessGroup


def process_group(distributed: Distributed) -> dist.ProcessGroup | None:
    """The process group to gather over, or None for a single process.

    Args:
        distributed: ``"auto"``: the default group if there is one with more than one process; a group: that one;
            False: none.
    """
    if not (isinstance(distributed, bool | dist.ProcessGroup) or distributed == "auto"):
        raise ArgumentError(f"distributed is {distributed!r:.80}; use 'auto', True, False or a process group")
    if distributed is False or not dist.is_available() or not dist.is_initialized():
        if distributed not in ("auto", False):
            raise ArgumentError(
                "distributed is set but there is no process group; call init_process_group or use 'auto'"
            )
        return None
    group = dist.group.WORLD if distributed in ("auto", True) else distributed
    return group if isinstance(group, dist.ProcessGroup) and dist.get_world_size(group) > 1 else None


def process_rank(distributed: Distributed) -> int:
    """Number of this process among those that are gathered over; 0 where it is alone."""
    group = process_group(distributed)
    return 0 if group is None else dist.get_rank(group)


def gather_sizes(local: Tensor, group: dist.ProcessGroup) -> list[int]:
    """Number of rows of each process's ``local`` ``(n, ...)``, in rank order.

    Raises:
        S2R2Error: The processes disagree about the width or the type of a row.
    """
    width = local.shape[1] if local.ndim > 1 else 1
    mine = torch.tensor([[len(local), width, local.element_size()]], device=local.device)
    shapes = torch.empty((dist.get_world_size(group), 3), dtype=mine.dtype, device=local.device)
    dist.all_gather_into_tensor(shapes, mine, group=group)
    sizes, widths, kinds = (list(column) for column in zip(*shapes.tolist(), strict=True))
    if len(set(widths)) > 1 or len(set(kinds)) > 1:
        raise ArgumentError(
            f"processes hold embeddings of widths {widths} with {kinds} bytes per number; make them equal"
        )
    return sizes


def gather(local: Tensor, sizes: list[int], group: dist.ProcessGroup) -> Tensor:
    """Rows of all processes, ``(sum(sizes), ...)``, in rank order, without gradient."""
    most = max(sizes)
    padded = local.new_zeros((most, *local.shape[1:]))
    padded[: len(local)] = local
    everything = local.new_empty((len(sizes) * most, *local.shape[1:]))
    dist.all_gather_into_tensor(everything, padded, group=group)
    if min(sizes) == most:
        return everything
    return torch.cat([part[:size] for part, size in zip(everything.split(most), sizes, strict=True)])


def gather_with_gradient(local: Tensor, sizes: list[int], group: dist.ProcessGroup) -> Tensor:
    """Like :func:`gather`; backward gives each process the sum of all processes' gradients of its own rows."""
    gathered: Tensor = _Gather.apply(local, sizes, group)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, sizes: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        return gather(local, sizes, group)

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        sizes, group = ctx.sizes, ctx.group
        most = max(sizes)
        padded = gradient.new_zeros((len(sizes), most, *gradient.shape[1:]))
        for slot, part in zip(padded, gradient.split(sizes), strict=True):
            slot[: len(part)] = part
        mine = gradient.new_empty((most, *gradient.shape[1:]))
        dist.reduce_scatter_tensor(mine, padded.flatten(0, 1), group=group)
        return mine[: sizes[dist.get_rank(group)]], None, None
