"""Ranking losses on CUDA: similarities live in registers, tile by tile; no N x N matrix is ever written.

Three kernels, in the manner of flash attention: one counts what ranks above each positive, two recompute the same
tiles and turn them into the gradients of the queries (a program owns queries) and of the candidates (a program owns
candidates, so nothing is added atomically). What involves positives only is O(N P D) and done in torch.

Under ``TRITON_INTERPRET=1``, set before the first import of triton, the kernels run on the CPU: for tests.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from s2r2.losses.backends.problem import PairGradient, RankingProblem

PRECISION = "tf32x3"
"""Matrix products inside the kernels: ``"tf32x3"``, three passes on tensor cores, which was as exact as ``"ieee"``
float32 and 1.5 times as fast on an H200. Plain TF32 is no choice: it moves a rank by up to 0.5 percent."""

_BUDGET = 2**24
"""Elements of the (queries, positives, D) buffers of a chunk (64 MiB)."""
_COLUMNS, _DEPTH, _WIDTH, _POSITIVES = 64, 32, 128, 8
"""Candidates of a tile, D inside a product, D of a gradient, positives that are counted together."""
_LAUNCH = {"num_warps": 4, "num_stages": 2}
"""Best of ten shapes tried on an H200 at N = 16,384: 1.5 times as fast as 8 warps on the same tiles."""


_LARGEST_SCALE = 40.0
"""Up to this 1 / T a sigmoid is made of one exponential a similarity, shared by all positives of the query."""


def rows_of_tile(capability: int) -> int:
    """Queries of a tile on a device of compute capability ``10 * major + minor``: what registers allow."""
    return 64 if capability >= 90 else 32


def evaluate(problem: RankingProblem, weights: Tensor | None) -> tuple[Tensor, PairGradient | None]:
    """Losses of all valid queries and, if weights are given, the gradient of their weighted sum.

    Args:
        problem: Float32 embeddings on CUDA, relevance and a loss with a sigmoid kernel.
        weights: Weight of each valid query ``(Q,)``, or None if no gradient is wanted.

    Returns:
        Losses ``(Q,)`` and the gradient, or None.
    """
    relevance = problem.relevance
    candidates = problem.candidates.contiguous()
    candidate_ids, query_ids = relevance.candidate_ids, relevance.query_ids
    losses = candidates.new_empty(len(relevance))
    gradient = None if weights is None else PairGradient.zeros(problem)
    with torch.cuda.device(candidates.device) if candidates.is_cuda else contextlib.nullcontext():
        for first, last in relevance.chunks(0, candidates.shape[1], _BUDGET):
            rows = relevance.rows[first:last]
            query = problem.queries[rows]
            index, valid = relevance.positives(first, last)
            # The same arithmetic as the tiles', so that equal embeddings have equal scores to the last digits.
            positive = torch.bmm(candidates[index], query[:, :, None])[:, :, 0].contiguous()
            above, slope = torch.empty_like(positive), torch.empty_like(positive)
            tiles = _Tiles(query, candidates, query_ids[first:last].contiguous(), candidate_ids, positive, problem)
            tiles.count(above, slope)
            among = problem.count_among(positive, valid, _BUDGET)
            outer = problem.ranks.combine(above, among, valid, valid.sum(1))
            losses[first:last] = outer.loss
            if gradient is None or weights is None:
                continue
            weight = weights[first:last, None]
            by_above = (weight * outer.by_negatives / problem.temperature).contiguous()
            by_positive = problem.pull_among(positive, valid, weight * outer.by_positives, _BUDGET) - by_above * slope
            by_query = tiles.pull_queries(by_above)
            by_query += torch.bmm(by_positive[:, None], candidates[index])[:, 0]
            gradient.queries[rows] = by_query
            tiles.pull_candidates(by_above, gradient.candidates)
            spread = by_positive[:, :, None] * query[:, None, :]
            gradient.candidates.index_add_(0, index.flatten(), spread.flatten(0, 1))
    return losses, gradient


class _Tiles:
    """The three kernels over one chunk of queries."""

    def __init__(
        self,
        query: Tensor,
        candidates: Tensor,
        query_ids: Tensor,
        candidate_ids: Tensor,
        positive: Tensor,
        problem: RankingProblem,
    ) -> None:
        self.pointers = (query, candidates, query_ids, candidate_ids, positive)
        self.sizes = (len(query), len(candidates), candidates.shape[1], positive.shape[1], 1 / problem.temperature)
        major, minor = torch.cuda.get_device_capability(query.device) if query.is_cuda else (9, 0)
        self.rows = rows_of_tile(10 * major + minor)
        width = max(16, min(_WIDTH, triton.next_power_of_2(candidates.shape[1])))
        self.width_programs = triton.cdiv(candidates.shape[1], width)
        tile: dict[str, Any] = {"BM": self.rows, "BN": _COLUMNS, "BK": _DEPTH, "PRECISION": PRECISION}
        tile["SHARED"] = 1 / problem.temperature <= _LARGEST_SCALE
        self.options = {**tile, **_LAUNCH}
        self.width = {"BD": width}

    def count(self, above: Tensor, slope: Tensor) -> None:
        """Fill sum_j sigma_ij and sum_j sigma_ij (1 - sigma_ij), both ``(Q, P)``."""
        grid = (triton.cdiv(len(above), self.rows), triton.cdiv(above.shape[1], _POSITIVES))
        _count[grid](*self.pointers, above, slope, *self.sizes, PB=_POSITIVES, **self.options)

    def pull_queries(self, by_above: Tensor) -> Tensor:
        """Gradient of the queries ``(Q, D)`` through the scores of their negatives."""
        by_query = torch.empty_like(self.pointers[0])
        grid = (triton.cdiv(len(by_query), self.rows), self.width_programs)
        _pull_queries[grid](*self.pointers, by_above, by_query, *self.sizes, **self.options, **self.width)
        return by_query

    def pull_candidates(self, by_above: Tensor, by_candidate: Tensor) -> None:
        """Add the gradient of the candidates ``(M, D)`` through their scores as negatives."""
        grid = (triton.cdiv(len(by_candidate), _COLUMNS), self.width_programs)
        _pull_candidates[grid](*self.pointers, by_above, by_candidate, *self.sizes, **self.options, **self.width)


@triton.jit
def _scores(  # type: ignore[no-untyped-def]
    queries,
    candidates,
    q,
    j,
    n_queries,
    n_candidates,
    depth,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Similarities of a tile, ``(BM, BN)``."""
    s = tl.zeros([BM, BN], tl.float32)
    for k0 in range(0, depth, BK):
        k = k0 + tl.arange(0, BK)
        a = tl.load(
            queries + q[:, None].to(tl.int64) * depth + k[None, :],
            mask=(q[:, None] < n_queries) & (k[None, :] < depth),
            other=0.0,
        )
        b = tl.load(
            candidates + j[:, None].to(tl.int64) * depth + k[None, :],
            mask=(j[:, None] < n_candidates) & (k[None, :] < depth),
            other=0.0,
        )
        s = tl.dot(a, tl.trans(b), s, input_precision=PRECISION)
    return s


@triton.jit
def _sigmoid(point_free, point, scale, SHARED: tl.constexpr):  # type: ignore[no-untyped-def]
    """sigma((s - point) / T) of a tile, from exp(-s / T) if shared, else from s."""
    if SHARED:
        return 1.0 / (1.0 + tl.exp(point * scale)[:, None] * point_free)
    return tl.sigmoid((point_free - point[:, None]) * scale)


@triton.jit
def _slopes(  # type: ignore[no-untyped-def]
    s,
    negative,
    positive,
    by_above,
    q,
    n_queries,
    n_positives,
    scale,
    BM: tl.constexpr,
    BN: tl.constexpr,
    SHARED: tl.constexpr,
):
    """Derivative with respect to the similarities of a tile: sum_i by_above_i sigma_ij (1 - sigma_ij)."""
    g = tl.zeros([BM, BN], tl.float32)
    point_free = tl.exp(-s * scale) if SHARED else s
    for p in range(n_positives):
        at = q.to(tl.int64) * n_positives + p
        point = tl.load(positive + at, mask=q < n_queries, other=0.0)
        weight = tl.load(by_above + at, mask=q < n_queries, other=0.0)
        x = _sigmoid(point_free, point, scale, SHARED)
        g += weight[:, None] * (x - x * x)
    return tl.where(negative, g, 0.0)


@triton.jit
def _count(  # type: ignore[no-untyped-def]
    queries,
    candidates,
    query_ids,
    candidate_ids,
    positive,
    above,
    slope,
    n_queries,
    n_candidates,
    depth,
    n_positives,
    scale,
    PB: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    SHARED: tl.constexpr,
):
    q = tl.program_id(0) * BM + tl.arange(0, BM)
    first = tl.program_id(1) * PB
    place = tl.arange(0, PB)
    own = tl.load(query_ids + q, mask=q < n_queries, other=-2)
    sums = tl.zeros([BM, PB], tl.float32)
    slopes = tl.zeros([BM, PB], tl.float32)
    for j0 in range(0, n_candidates, BN):
        j = j0 + tl.arange(0, BN)
        theirs = tl.load(candidate_ids + j, mask=j < n_candidates, other=-1)
        negative = (theirs[None, :] != own[:, None]) & (j[None, :] < n_candidates)
        s = _scores(queries, candidates, q, j, n_queries, n_candidates, depth, BM, BN, BK, PRECISION)
        point_free = tl.exp(-s * scale) if SHARED else s
        for p in tl.static_range(PB):
            column = first + tl.full([BM], p, tl.int32)
            known = (q < n_queries) & (column < n_positives)
            point = tl.load(positive + q.to(tl.int64) * n_positives + column, mask=known, other=0.0)
            x = tl.where(negative, _sigmoid(point_free, point, scale, SHARED), 0.0)
            here = place[None, :] == p
            sums += tl.where(here, tl.sum(x, 1)[:, None], 0.0)
            slopes += tl.where(here, tl.sum(x - x * x, 1)[:, None], 0.0)
    at = q[:, None].to(tl.int64) * n_positives + first + place[None, :]
    known = (q[:, None] < n_queries) & (first + place[None, :] < n_positives)
    tl.store(above + at, sums, mask=known)
    tl.store(slope + at, slopes, mask=known)


@triton.jit
def _pull_queries(  # type: ignore[no-untyped-def]
    queries,
    candidates,
    query_ids,
    candidate_ids,
    positive,
    by_above,
    by_query,
    n_queries,
    n_candidates,
    depth,
    n_positives,
    scale,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    SHARED: tl.constexpr,
    BD: tl.constexpr,
):
    q = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    own = tl.load(query_ids + q, mask=q < n_queries, other=-2)
    total = tl.zeros([BM, BD], tl.float32)
    for j0 in range(0, n_candidates, BN):
        j = j0 + tl.arange(0, BN)
        theirs = tl.load(candidate_ids + j, mask=j < n_candidates, other=-1)
        negative = (theirs[None, :] != own[:, None]) & (j[None, :] < n_candidates)
        s = _scores(queries, candidates, q, j, n_queries, n_candidates, depth, BM, BN, BK, PRECISION)
        g = _slopes(s, negative, positive, by_above, q, n_queries, n_positives, scale, BM, BN, SHARED)
        other = tl.load(
            candidates + j[:, None].to(tl.int64) * depth + d[None, :],
            mask=(j[:, None] < n_candidates) & (d[None, :] < depth),
            other=0.0,
        )
        total = tl.dot(g, other, total, input_precision=PRECISION)
    at = q[:, None].to(tl.int64) * depth + d[None, :]
    tl.store(by_query + at, total, mask=(q[:, None] < n_queries) & (d[None, :] < depth))


@triton.jit
def _pull_candidates(  # type: ignore[no-untyped-def]
    queries,
    candidates,
    query_ids,
    candidate_ids,
    positive,
    by_above,
    by_candidate,
    n_queries,
    n_candidates,
    depth,
    n_positives,
    scale,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    SHARED: tl.constexpr,
    BD: tl.constexpr,
):
    j = tl.program_id(0) * BN + tl.arange(0, BN)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    theirs = tl.load(candidate_ids + j, mask=j < n_candidates, other=-1)
    total = tl.zeros([BN, BD], tl.float32)
    for q0 in range(0, n_queries, BM):
        q = q0 + tl.arange(0, BM)
        own = tl.load(query_ids + q, mask=q < n_queries, other=-2)
        negative = (theirs[None, :] != own[:, None]) & (q[:, None] < n_queries) & (j[None, :] < n_candidates)
        s = _scores(queries, candidates, q, j, n_queries, n_candidates, depth, BM, BN, BK, PRECISION)
        g = _slopes(s, negative, positive, by_above, q, n_queries, n_positives, scale, BM, BN, SHARED)
        other = tl.load(
            queries + q[:, None].to(tl.int64) * depth + d[None, :],
            mask=(q[:, None] < n_queries) & (d[None, :] < depth),
            other=0.0,
        )
        total = tl.dot(tl.trans(g), other, total, input_precision=PRECISION)
    at = j[:, None].to(tl.int64) * depth + d[None, :]
    mask = (j[:, None] < n_candidates) & (d[None, :] < depth)
    tl.store(by_candidate + at, tl.load(by_candidate + at, mask=mask, other=0.0) + total, mask=mask)
