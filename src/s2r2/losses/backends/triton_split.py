"""Ranking losses on CUDA by kernels with a third of the instructions of :mod:`triton_cuda`, chosen by name.

Two kernels (:mod:`triton_split_kernels`): one counts what ranks above each positive, one turns the same tiles into
gradients. Where every embedding is both query and candidate, similarities are symmetric, and one call of the second
gives the whole gradient: a program owns its rows, and nothing is added atomically. Else it is called for the queries
and for the candidates.

Float16 holds the derivatives with respect to similarities only near their largest, which a nearly perfect batch has
far below one. The count therefore notes each query's highest negative, and weights are raised by the power of two that
this allows.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from s2r2.losses.backends import triton_split_kernels as kernels
from s2r2.losses.backends.problem import PairGradient, RankingProblem

_BUDGET = 2**24
"""Elements of the (queries, positives, D) buffers of a chunk (64 MiB)."""
_ROWS, _COLUMNS, _WIDTH, _POSITIVES = 64, 32, 128, 8
"""Rows and columns of a tile, D inside a product, positives of a query that are counted together.

More columns need more registers than there are; benchmarks/triton_code.py counts.
"""
LAUNCH = {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": True}
_LARGEST_ENTRY, _LARGEST_SLOPE = 4096.0, 16384.0
"""What embeddings and derivatives are scaled to: float16 ends at 65,504, and two derivatives may add up."""


@dataclass(frozen=True)
class Split:
    """Embeddings ``(N, D)`` as ``(high + low) * unit``, to 2^-22 of the largest entry; ``unit`` is a power of two."""

    high: Tensor
    low: Tensor
    unit: Tensor

    @classmethod
    def of(cls, z: Tensor) -> Split:
        """Split float32."""
        grow = _power_below(_LARGEST_ENTRY / z.abs().amax().clamp(min=1e-30))
        scaled = z * grow
        high = scaled.half()
        return cls(high, (scaled - high.float()).half(), 1 / grow)

    def rows(self, rows: Tensor) -> Split:
        """Some of them."""
        return Split(self.high[rows], self.low[rows], self.unit)

    def joined(self) -> Tensor:
        """Float32 again, as the kernels see it."""
        return (self.high.float() + self.low.float()) * self.unit


def evaluate(problem: RankingProblem, weights: Tensor | None) -> tuple[Tensor, PairGradient | None]:
    """Losses of all valid queries and, if weights are given, the gradient of their weighted sum.

    Args:
        problem: Float32 embeddings on CUDA, relevance and a loss with a sigmoid kernel.
        weights: Weight of each valid query ``(Q,)``, or None if no gradient is wanted.

    Returns:
        Losses ``(Q,)`` and the gradient, or None.
    """
    if len(problem.relevance) == 0:
        return problem.candidates.new_empty(0), None if weights is None else PairGradient.zeros(problem)
    device = problem.candidates.device
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        return _Evaluation(problem).run(weights)


class _Evaluation:
    """What the chunks of one call share."""

    def __init__(self, problem: RankingProblem) -> None:
        queries, candidates = problem.queries.contiguous(), problem.candidates.contiguous()
        same = queries.data_ptr() == candidates.data_ptr() and queries.shape == candidates.shape
        self.problem, self.relevance = problem, problem.relevance
        self.candidates = Split.of(candidates)
        self.queries = self.candidates if same else Split.of(queries)
        self.exact = self.candidates.joined()
        self.scale = math.log2(math.e) / problem.temperature
        self.exponent = -self.scale * self.queries.unit * self.candidates.unit
        longest = queries.norm(dim=1).amax() * candidates.norm(dim=1).amax()
        self.wide = (longest * self.scale >= kernels.REACH).int()
        count = self.relevance.count
        self.symmetric = same and int(count[0]) * len(queries) <= 2 * int(count.sum())

    def run(self, weights: Tensor | None) -> tuple[Tensor, PairGradient | None]:
        """As :func:`evaluate`."""
        problem, relevance = self.problem, self.relevance
        losses = problem.candidates.new_empty(len(relevance))
        gradient = None if weights is None else PairGradient.zeros(problem)
        points, derivatives, bounds = [], [], []
        for first, last in relevance.chunks(0, self.exact.shape[1], _BUDGET):
            rows = relevance.rows[first:last]
            index, valid = relevance.positives(first, last)
            query = self.queries.rows(rows)
            vectors = query.joined()
            positive = torch.bmm(self.exact[index], vectors[:, :, None])[:, :, 0]
            above, slope, lowest = self._count(query, self._points(positive), first, last)
            among = problem.count_among(positive, valid, _BUDGET)
            outer = problem.ranks.combine(above, among, valid, valid.sum(1))
            losses[first:last] = outer.loss
            if gradient is None or weights is None:
                continue
            weight = weights[first:last, None]
            by_above = weight * outer.by_negatives / problem.temperature
            by_positive = problem.pull_among(positive, valid, weight * outer.by_positives, _BUDGET) - by_above * slope
            gradient.queries[rows] = torch.bmm(by_positive[:, None], self.exact[index])[:, 0]
            spread = by_positive[:, :, None] * vectors[:, None, :]
            gradient.candidates.index_add_(0, index.flatten(), spread.flatten(0, 1))
            bound = self._largest_slope(positive, lowest, by_above)
            if self.symmetric:
                points.append((rows, positive))
                derivatives.append(by_above)
                bounds.append(bound)
            else:
                self._pull_apart(query, rows, (first, last), self._points(positive), by_above, bound, gradient)
        if gradient is not None and self.symmetric:
            self._pull_both(points, derivatives, torch.stack(bounds).amax(), gradient.candidates)
        return losses, gradient

    def _points(self, positive: Tensor) -> Tensor:
        """What kernels want of the positives' scores ``(Q, P)``: a_i or 2^a_i, ``(P, Q)``."""
        powers = positive.T * self.scale
        return torch.where(self.wide > 0, powers, torch.exp2(powers)).contiguous()

    def _count(self, query: Split, points: Tensor, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sum of sigma and of its slope ``(Q, P)``, and -log2(f) of the highest negative ``(Q,)``."""
        above, slope = torch.empty_like(points), torch.empty_like(points)
        lowest = points.new_empty(points.shape[1])
        ids = (self.relevance.query_ids[first:last].contiguous(), self.relevance.candidate_ids)
        block = min(_POSITIVES, len(points))
        grid = (triton.cdiv(last - first, _ROWS), triton.cdiv(len(points), block))
        halves = (query.high, query.low, self.candidates.high, self.candidates.low)
        sizes = (last - first, *self.exact.shape, len(points))
        for wide in (0, 1):
            kernels.count[grid](
                *halves, *ids, points, above, slope, lowest, self.exponent, self.wide, *sizes,
                PB=block, BM=_ROWS, BN=_COLUMNS, **self._width(), WIDE=wide, **LAUNCH,
            )  # fmt: skip
        return above.T.contiguous(), slope.T.contiguous(), lowest

    def _largest_slope(self, positive: Tensor, lowest: Tensor, by_above: Tensor) -> Tensor:
        """Bound of what a query's derivatives with respect to its negatives can be, over all queries."""
        top = torch.sigmoid(-math.log(2) * (positive * self.scale + lowest[:, None])).clamp(max=0.5)
        return (by_above.abs() * (top - top * top)).sum(1).amax()

    def _pull_apart(
        self, query: Split, rows: Tensor, span: tuple[int, int], points: Tensor, by_above: Tensor, bound: Tensor,
        gradient: PairGradient,
    ) -> None:  # fmt: skip
        """Add what negatives give to the queries of a chunk, and to all candidates."""
        grow = _growth(bound)
        ids = self.relevance.query_ids[span[0] : span[1]].contiguous()
        queries = (query, ids, points, (by_above.T * grow).contiguous())
        candidates = (self.candidates, self.relevance.candidate_ids, points, points)  # no tables: they own no positives
        by_query = torch.zeros_like(gradient.queries[: len(rows)])
        self._pull(queries, candidates, by_query, self.candidates.unit / grow, ROWS=True, COLUMNS=False)
        gradient.queries[rows] += by_query
        self._pull(candidates, queries, gradient.candidates, query.unit / grow, ROWS=False, COLUMNS=True)

    def _pull_both(
        self, points: list[tuple[Tensor, Tensor]], derivatives: list[Tensor], bound: Tensor, by_candidate: Tensor
    ) -> None:
        """Add what negatives give to all embeddings, each of which is query and candidate."""
        grow = _growth(bound)
        shape = (points[0][1].shape[1], len(by_candidate))
        scores, weights = by_candidate.new_zeros(shape), by_candidate.new_zeros(shape)
        for (rows, positive), by_above in zip(points, derivatives, strict=True):
            scores[: positive.shape[1], rows] = positive.T
            weights[: positive.shape[1], rows] = by_above.T * grow
        both = (self.candidates, self.relevance.candidate_ids, self._points(scores.T), weights)
        self._pull(both, both, by_candidate, self.candidates.unit / grow, ROWS=True, COLUMNS=True)

    def _pull(self, rows: tuple[Any, ...], columns: tuple[Any, ...], out: Tensor, unit: Tensor, **sides: bool) -> None:
        (a, row_ids, row_points, row_weights), (b, col_ids, col_points, col_weights) = rows, columns
        count = len(row_points)
        width = self._width()
        grid = (triton.cdiv(len(out), _ROWS), triton.cdiv(out.shape[1], width["BD"]))
        tables = (row_points, row_weights, col_points, col_weights)
        sizes = (len(out), len(b.high), out.shape[1], count)
        for wide in (0, 1):
            kernels.pull[grid](
                a.high, a.low, b.high, b.low, row_ids, col_ids, *tables, out, unit, self.exponent, self.wide, *sizes,
                PB=min(_POSITIVES, count), BLOCK=count <= _POSITIVES, BM=_ROWS, BN=_COLUMNS, WIDE=wide,
                **width, **sides, **LAUNCH,
            )  # fmt: skip

    def _width(self) -> dict[str, Any]:
        depth = self.exact.shape[1]
        width = max(16, min(_WIDTH, triton.next_power_of_2(depth)))
        return {"BD": width, "ONE": depth <= width}


def _growth(bound: Tensor) -> Tensor:
    return _power_below(_LARGEST_SLOPE / bound.clamp(min=1e-38))


def _power_below(x: Tensor) -> Tensor:
    """Largest power of two that is at most x, to rounding; at most 2^120."""
    return torch.exp2(torch.floor(torch.log2(x)).clamp(max=120))
