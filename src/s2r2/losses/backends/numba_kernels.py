"""The compiled loops of the numba backend: what is summed over each pair of a positive and a candidate.

With f_j = exp((c - s_j) / T) once per candidate and e_i = exp((s_i - c) / T) once per positive, c in the middle of
the query's positives,

    sigmoid((s_j - s_i) / T) = 1 / (1 + e_i f_j):

one division a triple instead of an exponential, and nothing per triple is stored. Float32 has the range for it unless
a query's positives lie further apart than ``_SPAN``; such a row takes an exponential per triple instead.

Scores may be float64 where all else is float32: then their distances from c are taken before anything is rounded.
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


def exp2(x, like):  # type: ignore[no-untyped-def]
    """2**x in the type of ``like``; infinity above 127 (float32). In compiled code what follows takes its place."""
    return type(like)(2.0**x)


@overload(exp2, inline="never")
def _exp2_for_type(x, like):  # type: ignore[no-untyped-def]
    if like == numba.float64:
        return lambda x, like: math.exp(x * 0.6931471805599453)
    kind: Any = np.float64 if x == numba.float64 else np.float32

    def power(x, like):  # type: ignore[no-untyped-def]
        limited = min(max(x, kind(-126.0)), kind(126.0))
        exponent = np.int32(limited + kind(127.5))
        r = np.float32(limited - kind(exponent - np.int32(127)))
        p = np.float32(1.5353362e-4)
        p = p * r + np.float32(1.3398874e-3)
        p = p * r + np.float32(9.6184370e-3)
        p = p * r + np.float32(5.5503324e-2)
        p = p * r + np.float32(2.4022648e-1)
        p = p * r + np.float32(6.9314720e-1)
        p = p * r + np.float32(1.0)
        value = p * np.int32(exponent << np.int32(23)).view(np.float32)
        return np.float32(np.inf) if x > kind(126.0) else value

    return power


def read_from(scores, out):  # type: ignore[no-untyped-def]
    """The table to read: ``scores``, which are ``out`` itself if of its type, and so not to be taken for another."""
    return out if scores.dtype == out.dtype else scores


@overload(read_from, inline="always")
def _read_from_type(scores, out):  # type: ignore[no-untyped-def]
    if scores.dtype == out.dtype:
        return lambda scores, out: out
    return lambda scores, out: scores


@jit
def multiply(queries, candidates, index, products, first, last):  # type: ignore[no-untyped-def]
    """Fill ``products`` ``(Q, P)`` with the scores of the candidates ``index``, added up in float64."""
    for q in range(first, last):
        for i in range(index.shape[1]):
            j = index[q, i]
            total = 0.0
            for d in range(queries.shape[1]):
                total += np.float64(queries[q, d]) * np.float64(candidates[j, d])
            products[q, i] = total


@jit
def _centre(row, scale):  # type: ignore[no-untyped-def]
    """Middle of a query's positives, and whether they lie close enough for products of exponentials."""
    low = high = row[0]
    for i in range(len(row)):
        low, high = min(low, row[i]), max(high, row[i])
    return (low + high) * 0.5, (high - low) * scale <= _SPAN


@jit
def count(scores, positive, counts, scale, out, centre, above, slope, first, last):  # type: ignore[no-untyped-def]
    """Fill ``above`` with sum_j sigma_ij and ``slope`` with sum_j sigma_ij (1 - sigma_ij), both ``(Q, P)``.

    ``out``, which is the scores themselves where both are of one type, gets f_j, and ``centre`` c; a row that is too
    wide has a NaN there, and its ``out`` is left alone.
    """
    kind, exact = out.dtype.type, scores.dtype.type
    one = kind(1)
    steep = exact(scale)
    candidates = scores.shape[1]
    for q in range(first, last):
        centre[q], narrow = _centre(positive[q, : counts[q]], scale)
        middle = exact(centre[q])
        centre[q] = middle if narrow else np.nan
        for start in range(0, candidates, _BLOCK):
            powers = out[q, start : min(start + _BLOCK, candidates)]
            block = read_from(scores[q, start : min(start + _BLOCK, candidates)], powers)
            if narrow:
                for j in range(len(block)):
                    powers[j] = exp2((middle - block[j]) * steep, one)
            for i in range(counts[q]):
                total, squares = kind(0), kind(0)
                if narrow:
                    e = exp2((positive[q, i] - middle) * scale, one)
                    for j in range(len(block)):
                        x = one / (one + e * powers[j])
                        total += x
                        squares += x * x
                else:
                    own = exact(positive[q, i])
                    for j in range(len(block)):
                        x = one / (one + exp2((own - block[j]) * steep, one))
                        total += x
                        squares += x * x
                above[q, i] += total
                slope[q, i] += total - squares


@jit
def pull(scores, positive, counts, scale, out, centre, by_above, first, last):  # type: ignore[no-untyped-def]
    """Replace f_j in ``out`` by sum over i of ``by_above[i] * sigma_ij * (1 - sigma_ij)``."""
    kind, exact = out.dtype.type, scores.dtype.type
    one = kind(1)
    steep = exact(scale)
    candidates = scores.shape[1]
    sums = np.empty(_BLOCK, out.dtype)
    for q in range(first, last):
        narrow = centre[q] == centre[q]
        for start in range(0, candidates, _BLOCK):
            powers = out[q, start : min(start + _BLOCK, candidates)]
            block = read_from(scores[q, start : min(start + _BLOCK, candidates)], powers)
            total = sums[: len(block)]
            total[:] = kind(0)
            for i in range(counts[q]):
                w = by_above[q, i]
                if narrow:
                    e = exp2((positive[q, i] - centre[q]) * scale, one)
                    for j in range(len(block)):
                        x = one / (one + e * powers[j])
                        total[j] += w * (x - x * x)
                else:
                    own = exact(positive[q, i])
                    for j in range(len(block)):
                        x = one / (one + exp2((own - block[j]) * steep, one))
                        total[j] += w * (x - x * x)
            powers[:] = total
