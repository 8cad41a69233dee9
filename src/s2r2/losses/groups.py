"""Which candidates are relevant to which query, for groups of any size in any order.

Candidates are sorted by group once, so that the members of a group are one segment of that order. A query
then needs only the start and the length of its segment: memory grows with N, never with N times the largest
group, and one giant group costs nothing to the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from s2r2.errors import ArgumentError

_NO_SKIP = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Relevance:
    """Queries that have a positive, and where their positives lie among M candidates.

    The queries are ordered by falling number of positives, so that neighbors need about equal padding.

    Attributes:
        rows: Row of each valid query in the query tensor, ``(Q,)`` int64.
        own: Position of the query itself among the candidates, -1 where it is none, ``(Q,)`` int64.
        start: First position of the query's group in ``members``, ``(Q,)`` int64.
        skip: Position within the group at which the query itself is left out, ``(Q,)`` int64.
        count: Number of positives of the query, at least 1, ``(Q,)`` int64, on the CPU.
        members: Candidates sorted by group, ``(K,)`` int64.
        candidate_ids: Group of each candidate as a small integer, -1 for relevant to nobody, ``(M,)`` int32.
    """

    rows: Tensor
    own: Tensor
    start: Tensor
    skip: Tensor
    count: Tensor
    members: Tensor
    candidate_ids: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def query_ids(self) -> Tensor:
        """Group of each query in the numbering of ``candidate_ids``, ``(Q,)`` int32."""
        return self.start.to(torch.int32)

    def to(self, device: torch.device) -> Relevance:
        """The same on another device, except ``count``, by which chunks are planned on the CPU."""
        if device.type == "cpu":
            return self
        names = ("rows", "own", "start", "skip", "members", "candidate_ids")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})

    def chunks(self, per_query: int, per_pair: int, budget: int) -> Iterator[tuple[int, int]]:
        """Cut the queries into ranges whose buffers have about ``budget`` elements.

        Args:
            per_query: Elements that one query needs however many positives it has.
            per_pair: Elements that each positive of a query needs in addition.
            budget: Elements that a chunk may need; a single query may exceed it.

        Yields:
            First and last (exclusive) position of the chunk.
        """
        first = 0
        while first < len(self):
            largest = int(self.count[first])
            last = min(len(self), first + max(1, budget // (per_query + per_pair * largest)))
            yield first, last
            first = last

    def positives(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Positives of the queries ``first:last``, padded to the largest number of them, P.

        Returns:
            Candidate positions ``(last - first, P)``, padded with the query's first positive, and the mask
            of those that are real, ``(last - first, P)``.
        """
        width = int(self.count[first])
        place = torch.arange(width, device=self.rows.device)
        valid = place < self.count[first:last, None].to(self.rows.device, non_blocking=True)
        place = torch.where(valid, place, 0)
        place = place + (place >= self.skip[first:last, None])
        return self.members[self.start[first:last, None] + place], valid


def count_queries(
    query_groups: Tensor, candidate_groups: Tensor, query_mask: Tensor | None, *, among_candidates: bool
) -> int:
    """Number of queries with a positive other than themselves."""
    ordered = torch.sort(candidate_groups).values
    size = _places(ordered, query_groups, "right") - _places(ordered, query_groups)
    valid = size > int(among_candidates)
    return int((valid if query_mask is None else valid & query_mask).sum())


def find_relevant(
    query_groups: Tensor,
    candidate_groups: Tensor,
    *,
    own: Tensor | None = None,
    query_mask: Tensor | None = None,
    include_self: bool = False,
    extra: int = 0,
) -> Relevance:
    """Find the positives of each query.

    Args:
        query_groups: Group of each query, ``(N,)`` integers on the CPU.
        candidate_groups: Group of each candidate, ``(K,)`` integers on the CPU.
        own: Position of each query among the candidates, ``(N,)`` int64; None if the queries are not among them.
        query_mask: Which queries count, ``(N,)`` bool on the CPU; None means all.
        include_self: Count the query as a candidate and as a positive of itself (original Smooth-AP).
        extra: Number of more candidates, after the first K, that are relevant to nobody.

    Returns:
        The queries with at least one positive other than themselves.
    """
    members = torch.argsort(candidate_groups, stable=True)
    ordered = candidate_groups[members]
    start = _places(ordered, query_groups)
    size = _places(ordered, query_groups, "right") - start
    others = size if own is None else size - 1
    valid = others > 0 if query_mask is None else (others > 0) & query_mask
    rows = valid.nonzero()[:, 0]
    count = (size if include_self else others)[rows]
    count, by_count = torch.sort(count, descending=True, stable=True)
    rows = rows[by_count]
    skip = torch.full_like(rows, _NO_SKIP)
    if own is None:
        own = torch.full_like(query_groups, -1)
    elif not include_self:
        position = torch.empty_like(members)
        position[members] = torch.arange(len(members), device="cpu")
        skip = position[own[rows]] - start[rows]
    candidate_ids = torch.full((len(candidate_groups) + extra,), -1, dtype=torch.int32, device="cpu")
    candidate_ids[: len(candidate_groups)] = _places(ordered, candidate_groups).to(torch.int32)
    return Relevance(rows, own[rows], start[rows], skip, count, members, candidate_ids)


def refuse_crossing(*tables: Tensor) -> None:
    """Refuse columns ``(N, L)`` of groups on the CPU in which members of one group are apart in a coarser column.

    Raises:
        S2R2Error: There is such a group; it is named.
    """
    columns = torch.cat(tables).numpy().T if tables[0].shape[1] > 1 else ()
    for number, (finer, coarser) in enumerate(itertools.pairwise(columns)):
        order = np.argsort(finer, kind="stable")
        finer, coarser = finer[order], coarser[order]
        apart = (finer[1:] == finer[:-1]) & (coarser[1:] != coarser[:-1])
        if apart.any():
            raise ArgumentError(
                f"groups: embeddings of group {finer[:-1][apart][0]} in column {number} are in several groups of "
                f"column {number + 1}; give the columns from the finest to the coarsest, each group whole inside one "
                "of the next column"
            )


def _places(ordered: Tensor, wanted: Tensor, side: Literal["left", "right"] = "left") -> Tensor:
    """Where each number belongs in the ordered ones, both on the CPU.

    By NumPy: torch wakes all its threads for this, while those that make views keep the cores busy.
    """
    return torch.from_numpy(np.searchsorted(ordered.numpy(), wanted.numpy(), side=side))
