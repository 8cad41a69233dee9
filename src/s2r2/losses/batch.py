"""From what the caller gives to what the backends want: checked, gathered, every positive found."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from s2r2.errors import ArgumentError, NonFiniteError
from s2r2.losses.distributed import Distributed, gather, gather_sizes, gather_with_gradient, process_group
from s2r2.losses.groups import Relevance, count_queries, find_relevant, refuse_crossing
from s2r2.losses.levels import Levels
from s2r2.losses.memory_bank import MemoryBank, check_bank
from s2r2.losses.refusals import refuse_transforms


@dataclass(frozen=True)
class Batch:
    """What is ranked in one call.

    Attributes:
        queries: This process's embeddings ``(N, D)``.
        candidates: What they are ranked against ``(M, D)``: everybody's embeddings or gallery, then the bank's.
        levels: This process's valid queries and their positives, for each column of the groups.
        shares: Share of each of these in the loss of its valid queries, ``(Q,)``; None: all of it.
        total: Number of valid queries of all processes.
        world_size: Number of processes.
        fresh: The first candidates, all but the bank's, without gradient.
        fresh_groups: The first column of their groups, on the CPU.
        sizes: Number of rows of ``fresh`` that come from each process.
        kind: ``"embeddings"`` or ``"gallery"``: what the candidates are.
        reach: With a gallery, the largest absolute number of each query of each process.
    """

    queries: Tensor
    candidates: Tensor
    levels: list[Relevance]
    shares: list[Tensor | None]
    total: int
    world_size: int
    fresh: Tensor
    fresh_groups: Tensor
    sizes: list[int]
    kind: str
    reach: tuple[Tensor, ...] = ()

    @property
    def relevance(self) -> Relevance:
        """The positives of groups that have one column."""
        (level,) = self.levels
        return level

    def check_finite(self) -> None:
        """Raise if any embedding is NaN, infinite or too large to multiply; all processes see, and raise, the same.

        Raises:
            NonFiniteError: Names the first such row.
        """
        name = "gallery embeddings" if self.kind == "gallery" else self.kind
        _check_finite(name, _reach(self.fresh), self.sizes, self.queries.dtype)
        if self.reach:
            _check_finite("embeddings", torch.cat(self.reach), [len(r) for r in self.reach], self.queries.dtype)


def check_arguments(
    embeddings: Tensor,
    groups: Tensor,
    gallery: Tensor | None = None,
    gallery_groups: Tensor | None = None,
    query_mask: Tensor | None = None,
    *,
    graded: bool = False,
) -> None:
    """Check shapes, types and devices; ``graded`` groups may have columns, ``(N, L)``.

    Raises:
        S2R2Error: Says which argument is wrong, and what it should be.
    """
    _check_pair("embeddings", embeddings, "groups", groups, graded)
    if (gallery is None) != (gallery_groups is None):
        raise ArgumentError("gallery and gallery_groups belong together; give both or neither")
    if gallery is not None and gallery_groups is not None:
        _check_pair("gallery", gallery, "gallery_groups", gallery_groups, graded)
        if groups.shape[1:] != gallery_groups.shape[1:]:
            raise ArgumentError(
                f"groups are {tuple(groups.shape)}, gallery_groups {tuple(gallery_groups.shape)}; give both the same "
                "number of columns"
            )
        if gallery.shape[1] != embeddings.shape[1] or gallery.device != embeddings.device:
            raise ArgumentError(
                f"gallery is {tuple(gallery.shape)} on {gallery.device}, embeddings are {tuple(embeddings.shape)} on "
                f"{embeddings.device}; make width and device equal"
            )
    if query_mask is None:
        return
    if not isinstance(query_mask, Tensor) or query_mask.shape != groups.shape[:1] or query_mask.dtype != torch.bool:
        kind = f"{query_mask.dtype} {tuple(query_mask.shape)}" if isinstance(query_mask, Tensor) else type(query_mask)
        raise ArgumentError(f"query_mask is {kind}; it must be a bool tensor ({len(groups)},)")


def assemble(
    embeddings: Tensor,
    groups: Tensor,
    *,
    gallery: Tensor | None = None,
    gallery_groups: Tensor | None = None,
    query_mask: Tensor | None = None,
    include_self: bool = False,
    distributed: Distributed,
    bank: MemoryBank | None,
    weighting: Levels | None = None,
) -> Batch:
    """Gather what other processes hold, add the bank, and find the positives of this process's queries.

    Groups may have columns ``(N, L)`` where ``weighting`` says how much each counts.
    """
    check_bank(bank)
    kind = "embeddings" if gallery is None else "gallery"
    exact = torch.float64 in (embeddings.dtype, None if gallery is None else gallery.dtype)
    dtype = torch.float64 if exact else torch.float32
    queries = embeddings.to(dtype)
    local = queries if gallery is None else gallery.to(dtype)
    local_groups = groups if gallery_groups is None else gallery_groups
    groups, local_groups = _columns(groups), _columns(local_groups)
    world = process_group(distributed)
    own: Tensor | None = torch.arange(len(queries), device="cpu")
    if world is None:
        candidates, candidate_groups, sizes = local, _on_cpu(local_groups), [len(local)]
        query_groups, mask = _on_cpu(groups), None if query_mask is None else query_mask.cpu()
        all_groups, world_size = query_groups, 1
        reach: tuple[Tensor, ...] = () if gallery is None else (_reach(queries),)
    else:
        world_size, rank = dist.get_world_size(world), dist.get_rank(world)
        sizes = gather_sizes(local, world)
        candidates = gather_with_gradient(local, sizes, world)
        # Groups, mask and reach travel together; every process then knows all queries without another exchange.
        flags = torch.ones_like(groups[:, :1]) if query_mask is None else query_mask[:, None]
        reached = [] if gallery is None else [_reach(queries).double().view(torch.int64)[:, None]]
        table = torch.cat([part.to(local.device, torch.int64) for part in (groups, flags, *reached)], dim=1)
        query_sizes = sizes if gallery is None else gather_sizes(queries, world)
        table = gather(table, query_sizes, world).cpu()
        columns = groups.shape[1]
        all_groups, all_mask = table[:, :columns], table[:, columns].bool()
        reach = () if gallery is None else table[:, -1].contiguous().view(torch.float64).split(query_sizes)
        query_groups, mask = all_groups.split(query_sizes)[rank], all_mask.split(query_sizes)[rank]
        if gallery is None:
            candidate_groups, own = all_groups, torch.arange(len(queries), device="cpu") + sum(sizes[:rank])
        else:
            candidate_groups = gather(local_groups.to(torch.int64).to(local.device), sizes, world).cpu()
    if gallery is not None:
        own = None
    fresh, fresh_groups, extra = candidates.detach(), candidate_groups[:, 0].contiguous(), 0
    if bank is not None and len(bank):
        remembered, remembered_groups = bank.contents(like=candidates)
        candidates = torch.cat([candidates, remembered])
        if bank.positives:
            candidate_groups = torch.cat([candidate_groups, remembered_groups[:, None]])
        else:
            extra = len(remembered)
    refuse_crossing(all_groups, candidate_groups)  # in all processes, or the others would wait for this one
    levels = [
        find_relevant(wanted, there, own=own, query_mask=mask, include_self=include_self, extra=extra)
        for wanted, there in _by_column(query_groups, candidate_groups)
    ]
    total = len(levels[-1])  # whoever has a positive in any column has one in the last
    if world is not None:
        *_, (wanted, there) = _by_column(all_groups, candidate_groups)
        total = count_queries(wanted, there, all_mask, among_candidates=own is not None)
    shares = [None] if weighting is None else weighting.shares(levels, len(queries))
    levels = [level.to(queries.device) for level in levels]
    shares = [share if share is None else share.to(queries, non_blocking=True) for share in shares]
    return Batch(queries, candidates, levels, shares, total, world_size, fresh, fresh_groups, sizes, kind, reach)


def _columns(groups: Tensor) -> Tensor:
    return groups if groups.ndim == 2 else groups[:, None]


def _by_column(*groups: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Each column of several tables of groups, contiguous."""
    return zip(*(table.T.contiguous() for table in groups), strict=True)


def gather_everybody(
    embeddings: Tensor, groups: Tensor, distributed: Distributed, *, check_finite: bool
) -> tuple[Tensor, Tensor]:
    """All processes' embeddings ``(M, D)``, with gradient, and groups ``(M,)`` on the CPU: for losses without queries.

    Raises:
        S2R2Error: Wrong shapes or types, NaN or infinity.
    """
    check_arguments(embeddings, groups)
    refuse_transforms(embeddings)
    gathered = embeddings.to(torch.float64 if embeddings.dtype == torch.float64 else torch.float32)
    all_groups, sizes = _on_cpu(groups), [len(embeddings)]
    world = process_group(distributed)
    if world is not None:
        sizes = gather_sizes(gathered, world)
        gathered = gather_with_gradient(gathered, sizes, world)
        all_groups = gather(groups.to(gathered.device, torch.int64), sizes, world).cpu()
    if check_finite or embeddings.device.type == "cpu":
        _check_finite("embeddings", _reach(gathered), sizes, gathered.dtype)
    return gathered, all_groups


def _on_cpu(groups: Tensor) -> Tensor:
    return groups.detach().to(device="cpu", dtype=torch.int64)


def _check_pair(name: str, vectors: Tensor, groups_name: str, groups: Tensor, graded: bool = False) -> None:
    dense = isinstance(vectors, Tensor) and vectors.layout == torch.strided and not vectors.is_meta
    if not dense or vectors.ndim != 2 or not vectors.is_floating_point():
        shape = f"{vectors.dtype} {tuple(vectors.shape)}" if isinstance(vectors, Tensor) else type(vectors).__name__
        if isinstance(vectors, Tensor) and not dense:
            shape += f", {'on meta' if vectors.is_meta else vectors.layout}"
        raise ArgumentError(f"{name} must be a dense floating point tensor (N, D), got {shape}")
    if vectors.shape[1] == 0:
        raise ArgumentError(f"{name} are {tuple(vectors.shape)}: without a single number there is nothing to compare")
    if not isinstance(groups, Tensor) or groups.is_floating_point() or groups.is_complex():
        kind = groups.dtype if isinstance(groups, Tensor) else type(groups).__name__
        raise ArgumentError(
            f"{groups_name} must be a tensor of integers, one a row of {name}, got {kind}; "
            "number other labels first: torch.as_tensor(numpy.unique(labels, return_inverse=True)[1])"
        )
    if groups.is_meta or groups.layout != torch.strided:
        raise ArgumentError(
            f"{groups_name} is on {groups.device} as {groups.layout}: give a dense tensor with its numbers"
        )
    columns = graded and groups.ndim == 2 and groups.shape[1] > 0
    if groups.shape[: 1 if columns else None] != vectors.shape[:1]:
        also = ", or a row of them: (N, L)" if graded else ""
        raise ArgumentError(
            f"{groups_name} is {tuple(groups.shape)} for {name} {tuple(vectors.shape)}; "
            f"give one integer per row: ({len(vectors)},){also}"
        )


def _reach(vectors: Tensor) -> Tensor:
    """The largest absolute number of each row."""
    return vectors.detach().abs().amax(1)


def _check_finite(name: str, largest: Tensor, sizes: list[int], dtype: torch.dtype) -> None:
    good = largest <= largest_number(dtype)  # false for NaN too
    if bool(good.all()):
        return
    row = int((~good).nonzero()[0, 0])
    value = float(largest[row])
    process = 0
    while row >= sizes[process]:
        row -= sizes[process]
        process += 1
    where = f"row {row}" if len(sizes) == 1 else f"row {row} of process {process}"
    if math.isfinite(value):
        raise NonFiniteError(f"{name} reach {value:.0e} in {where}: similarities overflow; normalize embeddings first")
    raise NonFiniteError(f"{name} are not finite in {where}; look for a diverging learning rate or a broken image")


def largest_number(dtype: torch.dtype) -> float:
    """The largest number in an embedding of whose products sums and quotients by a temperature do not overflow."""
    return float(torch.finfo(dtype).max ** 0.5 / 1e4)
