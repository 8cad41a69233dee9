"""The compiled loops of the numba backend: what is summed over each pair of a positive and a candidate.

With f_j = exp((c - s_j) / T) once per candidate and e_i = exp((s_i - c) / T) once per positive, c in the middle of
the query's positives,

    sigmoid((s_j - s_i) / T) = 1 / (1 + e_i f_j):

one division a triple instead of an exponential, and nothing per triple is stored. Float32 has the range for it unless
a query's positives lie further apart than ``_SPAN``; such a row takes an exponential per triple instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.extending import overload

from s2r2.system.jit import njit

_BLOCK = 2048
"""Candidates in a block of the inner loops: their exponentials stay in the first-level cache."""
_SPAN = 90.0
"""Widest spread of a query's positives, in powers of two, for which e_i f_j cannot be 0 times infinity."""


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop, without Python's lock, on its first call; kept on disk where there is a folder for it."""
    # No nnan or ninf: a hidden score is minus infinity, and its exponential infinity, on purpose.
    options: dict[str, Any] = {
        "nogil": True,
        "fastmath": {"reassoc", "contract", "nsz", "arcp"},
        "error_model": "numpy",
    }
    return njit(**options)(function)


def exp2(x):  # type: ignore[no-untyped-def]
    """2**x; infinity above 127 (float32). Inside compiled code what follows takes its place."""
    return 2.0**x


@overload(exp2, inline="never")
def _exp2_for_type(x):  # type: ignore[no-untyped-def]
    if x == numba.float64:
        return lambda x: math.exp(x * 0.6931471805599453)

    def power(x):  # type: ignore[no-untyped-def]
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

    return power


@jit
def _centre(row, scale):  # type: ignore[no-untyped-def]
    """Middle of a query's positives, and whether they lie close enough for products of exponentials."""
    low = high = row[0]
    for i in range(len(row)):
        low, high = min(low, row[i]), max(high, row[i])
    return (low + high) * row.dtype.type(0.5), (high - low) * scale <= row.dtype.type(_SPAN)


@jit
def count(scores, positive, counts, scale, centre, above, slope, first, last):  # type: ignore[no-untyped-def]
    """Fill ``above`` with sum_j sigma_ij and ``slope`` with sum_j sigma_ij (1 - sigma_ij), both ``(Q, P)``.

    Scores become f_j in place, and ``centre`` c; a row that is too wide keeps its scores and has a NaN there.
    """
    kind = scores.dtype.type
    scale = kind(scale)
    one = kind(1)
    candidates = scores.shape[1]
    for q in range(first, last):
        row = scores[q]
        middle, narrow = _centre(positive[q, : counts[q]], scale)
        centre[q] = middle if narrow else kind(np.nan)
        for start in range(0, candidates, _BLOCK):
            block = row[start : min(start + _BLOCK, candidates)]
            if narrow:
                for j in range(len(block)):
                    block[j] = exp2((middle - block[j]) * scale)
            for i in range(counts[q]):
                total, squares = kind(0), kind(0)
                if narrow:
                    e = exp2((positive[q, i] - middle) * scale)
                    for j in range(len(block)):
                        x = one / (one + e * block[j])
                        total += x
                        squares += x * x
                else:
                    for j in range(len(block)):
                        x = one / (one + exp2((positive[q, i] - block[j]) * scale))
                        total += x
                        squares += x * x
                above[q, i] += total
                slope[q, i] += total - squares


@jit
def pull(scores, positive, counts, scale, centre, by_above, first, last):  # type: ignore[no-untyped-def]
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
                    e = exp2((positive[q, i] - centre[q]) * scale)
                    for j in range(len(block)):
                        x = one / (one + e * block[j])
                        total[j] += w * (x - x * x)
                else:
                    for j in range(len(block)):
                        x = one / (one + exp2((positive[q, i] - block[j]) * scale))
                        total[j] += w * (x - x * x)
            block[:] = total
