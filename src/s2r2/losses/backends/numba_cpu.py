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
_FOR_POSITIVES = 4
"""Numbers kept for each query and positive."""
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
    memory: Tensor | None = None  # the scores of one chunk after the other: fresh pages for each would cost time
    with _row_workers(int(relevance.count.sum()) * len(candidates)) as over_rows, _announced():
        for first, last in relevance.chunks(len(candidates), _FOR_POSITIVES, _BUDGET):
            rows = relevance.rows[first:last]
            query = queries[rows]
            if memory is None or len(memory) < len(query):
                memory = queries.new_empty(len(query), len(candidates))
            scores = torch.mm(query, candidates.T, out=memory[: len(query)])
            index, valid = relevance.positives(first, last)
            positive = problem.hide_relevant(scores, index, first, last)
            counts = relevance.count[first:last].numpy()
            within = positive.masked_fill(~valid, -torch.inf)
            negatives = _Sums(over_rows, scores, positive, counts, scale)
            among = _Sums(over_rows, within, positive, counts, scale)
            # A positive counts itself as one half among the positives, and as one in the rank.
            outer = problem.ranks.combine(negatives.above, 0.5 + among.above, valid, relevance.count[first:last])
            losses[first:last] = outer.loss
            if gradient is None or weights is None:
                continue
            weight = weights[first:last, None] / problem.temperature
            by_positive = torch.zeros_like(positive)
            for sums, by_count in ((negatives, weight * outer.by_negatives), (among, weight * outer.by_positives)):
                by_positive -= by_count * sums.slope
                sums.pull(over_rows, by_count)
            by_positive += within
            scores.scatter_add_(1, index, by_positive)
            gradient.queries[rows] = scores @ candidates
            gradient.candidates.addmm_(scores.T, query)
    return losses, gradient


class _Sums:
    """What candidates ``(Q, M)`` add to each positive ``(Q, P)`` of their query: sum of sigma, and its slope times T.

    The table of the candidates' scores, minus infinity where hidden, is used up.
    """

    def __init__(
        self, over_rows: Callable[..., None], scores: Tensor, positive: Tensor, counts: np.ndarray, scale: float
    ) -> None:
        self.above, self.slope = torch.zeros_like(positive), torch.zeros_like(positive)
        self._given = (scores.numpy(), positive.numpy(), counts, scale)
        self._state: tuple[np.ndarray, ...] = (np.empty(len(scores), scores.numpy().dtype),)
        self._kernels: Any = numba_kernels
        # The error of moments is float32's; float64 takes the exact sums however many positives there are.
        if positive.shape[1] >= numba_moments.MANY and positive.dtype == torch.float32:
            self._kernels = numba_moments
            self._state += (np.zeros(len(scores), np.int64),)
        over_rows(self._kernels.count, *self._given, *self._state, self.above.numpy(), self.slope.numpy())

    def pull(self, over_rows: Callable[..., None], by_count: Tensor) -> None:
        """Replace the scores by the derivative with respect to them, times T, given that by the sums ``(Q, P)``."""
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
