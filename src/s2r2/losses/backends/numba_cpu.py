"""Ranking losses on the CPU: matrix products by torch, everything else in compiled loops over a query's candidates."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s2r2.losses.backends import numba_kernels, numba_moments
from s2r2.losses.backends.problem import PairGradient, RankingProblem

_BUDGET = 2**22
"""Similarities in a chunk of queries (16 MiB of float32); a quarter of it takes longer to add up the gradients."""
_FOR_POSITIVES = 6
"""Numbers kept for each query and positive."""
_EXACT_BELOW = 0.04
"""Temperature below which scores are products in float64, that the gradient be right to 1e-6.

A float32 product of unit vectors is off by about 6e-8, which a kernel as narrow as T makes 6e-8 / T. A few positives,
in whose scores all of a query's candidates share, are multiplied in float64 at any T.
"""
_PARALLEL_ABOVE = 2_000_000
"""Triples below which a second thread costs more than it saves."""


def evaluate(problem: RankingProblem, weights: Tensor | None) -> tuple[Tensor, PairGradient | None]:
    """Losses of all valid queries and, if weights are given, the gradient of their weighted sum.

    Args:
        problem: Embeddings on the CPU, relevance and a loss with a sigmoid kernel.
        weights: Weight of each valid query ``(Q,)``, or None if no gradient is wanted.

    Returns:
        Losses ``(Q,)`` and the gradient, or None.
    """
    queries, candidates, relevance = problem.queries, problem.candidates, problem.relevance
    losses = queries.new_empty(len(relevance))
    gradient = None if weights is None else PairGradient.zeros(problem)
    scale = math.log2(math.e) / problem.temperature
    exact = problem.temperature < _EXACT_BELOW or queries.dtype == torch.float64
    compared = candidates.double() if exact else candidates.contiguous()
    budget = _BUDGET // 2 if compared.dtype != queries.dtype else _BUDGET
    memory = _Memory(compared.dtype, queries.dtype)
    with _row_workers(int(relevance.count.sum()) * len(candidates)) as over_rows, _announced():
        for first, last in relevance.chunks(len(candidates), _FOR_POSITIVES, budget):
            rows = relevance.rows[first:last]
            query = queries[rows]
            scores, out = memory.tables(len(query), len(candidates))
            torch.mm(query.to(compared.dtype), compared.T, out=scores)
            index, valid = relevance.positives(first, last)
            positive = problem.hide_relevant(scores, index, first, last).double()
            if not exact and positive.shape[1] < numba_moments.MANY:
                over_rows(numba_kernels.multiply, query.numpy(), compared.numpy(), index.numpy(), positive.numpy())
            counts = relevance.count[first:last].numpy()
            within = positive.masked_fill(~valid, -torch.inf)
            among = within if within.dtype == queries.dtype else torch.empty_like(within, dtype=queries.dtype)
            negative_sums = _Sums(over_rows, scores, positive, counts, scale, out)
            positive_sums = _Sums(over_rows, within, positive, counts, scale, among)
            # A positive counts itself as one half among the positives, and as one in the rank.
            ranks = 0.5 + positive_sums.above
            outer = problem.ranks.combine(negative_sums.above, ranks, valid, relevance.count[first:last])
            losses[first:last] = outer.loss
            if gradient is None or weights is None:
                continue
            weight = weights[first:last, None] / problem.temperature
            by_positive = torch.zeros_like(among)
            for sums, by_count in (
                (negative_sums, weight * outer.by_negatives),
                (positive_sums, weight * outer.by_positives),
            ):
                by_positive -= by_count * sums.slope
                sums.pull(over_rows, by_count)
            by_positive += among
            out.scatter_add_(1, index, by_positive)
            gradient.queries[rows] = out @ candidates
            gradient.candidates.addmm_(out.T, query)
    return losses, gradient


class _Memory:
    """Two tables of one chunk after the other, or one that is both: fresh pages for each chunk would cost time."""

    def __init__(self, scores: torch.dtype, out: torch.dtype) -> None:
        self._kinds = (scores, out) if scores != out else (scores,)
        self._tables: list[Tensor] = []

    def tables(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """For the scores, and for what becomes of them; with anything in them."""
        if not self._tables or len(self._tables[0]) < rows:
            self._tables = [torch.empty(rows, columns, dtype=kind, device="cpu") for kind in self._kinds]
        return self._tables[0][:rows], self._tables[-1][:rows]


class _Sums:
    """What candidates ``(Q, M)`` add to each positive ``(Q, P)`` of their query: sum of sigma, and its slope times T.

    Scores are minus infinity where hidden; ``out``, the scores themselves where both are of one type, is written to.
    """

    def __init__(
        self,
        over_rows: Callable[..., None],
        scores: Tensor,
        positive: Tensor,
        counts: np.ndarray,
        scale: float,
        out: Tensor,
    ) -> None:
        self.above, self.slope = (torch.zeros_like(positive, dtype=out.dtype) for _ in range(2))
        self._given = (scores.numpy(), positive.numpy(), counts, scale, out.numpy())
        self._state: tuple[np.ndarray, ...] = (np.empty(len(scores)),)
        self._kernels: Any = numba_kernels
        # The error of moments is float32's; float64 takes the exact sums however many positives there are.
        if positive.shape[1] >= numba_moments.MANY and out.dtype == torch.float32:
            self._kernels = numba_moments
            self._state += (np.zeros(len(scores), np.int64),)
        over_rows(self._kernels.count, *self._given, *self._state, self.above.numpy(), self.slope.numpy())

    def pull(self, over_rows: Callable[..., None], by_count: Tensor) -> None:
        """Set ``out`` to the derivative with respect to the scores, times T, given that by the sums ``(Q, P)``."""
        over_rows(self._kernels.pull, *self._given, *self._state, by_count.numpy())


@contextmanager
def _row_workers(triples: int) -> Iterator[Callable[..., None]]:
    """Yield a function that runs a kernel over all rows, split among torch's number of threads if it pays."""
    threads = torch.get_num_threads() if triples > _PARALLEL_ABOVE else 1

    def alone(kernel: Callable[..., None], scores: np.ndarray, *arguments: Any) -> None:
        kernel(scores, *arguments, 0, len(scores))

    if threads == 1:
        yield alone
        return
    # A pool per call: a lasting one would be dead, and wait forever, in a process forked later.
    with ThreadPoolExecutor(threads) as pool:

        def together(kernel: Callable[..., None], scores: np.ndarray, *arguments: Any) -> None:
            cuts = [len(scores) * k // threads for k in range(threads + 1)]
            jobs = [pool.submit(kernel, scores, *arguments, a, b) for a, b in pairwise(cuts)]
            for job in jobs:
                job.result()

        yield together


_ready = False


@contextmanager
def _announced() -> Iterator[None]:
    """Say so if the first call takes long: then it is compiling, and not merely loading from the cache."""
    global _ready
    if _ready:
        yield
        return
    message = "s2r2: compiling the ranking loss for this processor, once (some seconds, then cached)"
    timer = threading.Timer(3, print, (message,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
        _ready = True
    finally:
        timer.cancel()
