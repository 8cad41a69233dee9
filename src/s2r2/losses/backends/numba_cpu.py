"""Ranking losses on the CPU: matrix products by torch, everything per (query, positive, candidate) in fused loops.

With f_j = exp((c - s_j) / T) once per candidate and e_i = exp((s_i - c) / T) once per positive, c in the middle of
the query's positives,

    sigmoid((s_j - s_i) / T) = 1 / (1 + e_i f_j):

one division a triple instead of an exponential, and nothing per triple is stored. Float32 has the range for it unless
a query's positives lie further apart than ``_SPAN``; such a row takes an exponential per triple instead.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from numba.extending import overload
from torch import Tensor

from s2r2.compiled import njit
from s2r2.losses.backends.problem import PairGradient, RankingProblem

_BUDGET = 2**20
"""Similarities in a chunk of queries (4 MiB of float32)."""
_BLOCK = 2048
"""Candidates in a block of the inner loops: their exponentials stay in the first-level cache."""
_SPAN = 90.0
"""Widest spread of a query's positives, in powers of two, for which e_i f_j cannot be 0 times infinity."""
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
    with _row_workers(int(relevance.count.sum()) * len(candidates)) as over_rows, _announced():
        for first, last in relevance.chunks(len(candidates), 0, _BUDGET):
            rows = relevance.rows[first:last]
            query = queries[rows]
            scores = query @ candidates.T
            index, valid = relevance.positives(first, last)
            positive = problem.hide_relevant(scores, index, first, last)
            counts = relevance.count[first:last].numpy()
            above, slope = torch.zeros_like(positive), torch.zeros_like(positive)
            centre = queries.new_empty(len(rows))
            table, points = scores.numpy(), positive.numpy()
            over_rows(_count, table, points, counts, scale, centre.numpy(), above.numpy(), slope.numpy())
            among = problem.count_among(positive, valid, _BUDGET)
            outer = problem.ranks.combine(above, among, valid, relevance.count[first:last])
            losses[first:last] = outer.loss
            if gradient is None or weights is None:
                continue
            weight = weights[first:last, None]
            by_above = weight * outer.by_negatives / problem.temperature
            by_positive = problem.pull_among(positive, valid, weight * outer.by_positives, _BUDGET) - by_above * slope
            over_rows(_pull, table, points, counts, scale, centre.numpy(), by_above.numpy())
            scores.scatter_add_(1, index, by_positive)
            gradient.queries[rows] = scores @ candidates
            gradient.candidates.addmm_(scores.T, query)
    return losses, gradient


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    # No nnan or ninf: a hidden score is minus infinity, and its exponential infinity, on purpose.
    options: dict[str, Any] = {
        "nogil": True,
        "fastmath": {"reassoc", "contract", "nsz", "arcp"},
        "error_model": "numpy",
    }
    return njit(**options)(function)


def _exp2(x):  # type: ignore[no-untyped-def]
    """2**x; infinity above 127 (float32). Inside compiled code what follows takes its place."""
    return 2.0**x


@overload(_exp2, inline="never")
def _exp2_for_type(x):  # type: ignore[no-untyped-def]
    if x == numba.float64:
        return lambda x: math.exp(x * 0.6931471805599453)

    def exp2(x):  # type: ignore[no-untyped-def]
        limited = min(max(x, np.float32(-126.0)), np.float32(126.0))
        exponent = np.int32(limited + np.float32(127.5))
        r = limited - np.float32(exponent - np.int32(127))
        p = np.float32(1.5353362e-4)
        p = p * r + np.float32(1.3398874e-3)
        p = p * r + np.float32(9.6184370e-3)
        p = p * r + np.float32(5.5503324e-2)
        p = p * r + np.float32(2.4022648e-1)
        p = p * r + np.float32(6.9314720e-1)
        p = p * r + np.float32(1.0)
        value = p * np.int32(exponent << np.int32(23)).view(np.float32)
        return np.float32(np.inf) if x > np.float32(126.0) else value

    return exp2


@_jit
def _count(scores, positive, counts, scale, centre, above, slope, first, last):  # type: ignore[no-untyped-def]
    """Fill ``above`` with sum_j sigma_ij and ``slope`` with sum_j sigma_ij (1 - sigma_ij), both ``(Q, P)``.

    Scores become f_j in place, and ``centre`` c; a row that is too wide keeps its scores and has a NaN there.
    """
    kind = scores.dtype.type
    scale = kind(scale)
    one = kind(1)
    candidates = scores.shape[1]
    for q in range(first, last):
        row = scores[q]
        low = high = positive[q, 0]
        for i in range(counts[q]):
            low, high = min(low, positive[q, i]), max(high, positive[q, i])
        narrow = (high - low) * scale <= kind(_SPAN)
        middle = (low + high) * kind(0.5)
        centre[q] = middle if narrow else kind(np.nan)
        for start in range(0, candidates, _BLOCK):
            block = row[start : min(start + _BLOCK, candidates)]
            if narrow:
                for j in range(len(block)):
                    block[j] = _exp2((middle - block[j]) * scale)
            for i in range(counts[q]):
                total, squares = kind(0), kind(0)
                if narrow:
                    e = _exp2((positive[q, i] - middle) * scale)
                    for j in range(len(block)):
                        x = one / (one + e * block[j])
                        total += x
                        squares += x * x
                else:
                    for j in range(len(block)):
                        x = one / (one + _exp2((positive[q, i] - block[j]) * scale))
                        total += x
                        squares += x * x
                above[q, i] += total
                slope[q, i] += total - squares


@_jit
def _pull(scores, positive, counts, scale, centre, by_above, first, last):  # type: ignore[no-untyped-def]
    """Replace f_j (or the scores) by sum over i of ``by_above[i] * sigma_ij * (1 - sigma_ij)``."""
    kind = scores.dtype.type
    scale = kind(scale)
    one = kind(1)
    candidates = scores.shape[1]
    sums = np.empty(_BLOCK, scores.dtype)
    for q in range(first, last):
        row = scores[q]
        narrow = centre[q] == centre[q]
        for start in range(0, candidates, _BLOCK):
            block = row[start : min(start + _BLOCK, candidates)]
            total = sums[: len(block)]
            total[:] = kind(0)
            for i in range(counts[q]):
                w = by_above[q, i]
                if narrow:
                    e = _exp2((positive[q, i] - centre[q]) * scale)
                    for j in range(len(block)):
                        x = one / (one + e * block[j])
                        total[j] += w * (x - x * x)
                else:
                    for j in range(len(block)):
                        x = one / (one + _exp2((positive[q, i] - block[j]) * scale))
                        total[j] += w * (x - x * x)
            block[:] = total


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
