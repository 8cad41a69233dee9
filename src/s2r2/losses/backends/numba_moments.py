"""Ranks of many positives among many candidates, at a cost for each candidate that does not grow with the positives.

A query's candidates go into bins of width 0.8 T, and a bin keeps the moments of its scores about its middle c. With d
the distance from the middle and sigma^(m) the m-th derivative of the sigmoid at (c - s_i) / T,

    sum over j in the bin of sigmoid((s_j - s_i) / T) = sum over m of sigma^(m) / m! * sum over j of (d_j / T)^m.

The nearest poles of the sigmoid are i pi T away from the real axis and d is at most 0.4 T, so that what is left out
after eight terms is a share of about (0.4 / pi)^8 = 7e-8 of the sum, however small the sum: float32's own error.
The gradient at a candidate, sum over i of w_i sigma'((s_j - s_i) / T), is one function of s_j for each query; its
coefficients in each bin are summed over the positives, and read at each candidate.
"""

from __future__ import annotations

import math

import numpy as np

from s2r2.losses.backends.numba_kernels import count as count_directly, exp2, jit, pull as pull_directly, read_from
from s2r2.losses.backends.numba_lanes import LANES, add_powers, read_eight

MANY = 22
"""Positives from which on moments are faster than one reciprocal for each positive and candidate, if bins are few."""
_PER_BIN = 10
"""Candidates that cost a positive as much as a bin."""
_WIDTH = 0.8
"""Width of a bin in temperatures."""
# From powers of d in widths to those in temperatures, over the factorials.
_C1, _C2, _C3, _C4, _C5, _C6, _C7 = (_WIDTH**m / math.factorial(m) for m in range(1, LANES))
_BLOCK = 512
"""Candidates whose bins are found at once."""
_ABREAST = 16
"""Positives are padded to a multiple of these: what is left of a vector would be computed one by one."""
_FARTHEST = 126.0
"""Powers of two beyond which float32 has no reciprocal."""


@jit
def count(scores, positive, counts, scale, out, centre, bins, above, slope, first, last):  # type: ignore[no-untyped-def]
    """As :func:`numba_kernels.count` does for float32, by moments where that is faster.

    ``bins`` then has a row's number of bins, ``centre`` the lower end of the first, and ``out`` stays; else it has 0.
    """
    kind, exact = np.float32, scores.dtype.type
    width = exact(_WIDTH * 1.4426950408889634 / scale)
    candidates = scores.shape[1]
    moments = np.empty((candidates // _PER_BIN + 3, LANES), np.float32)
    places, distances = np.empty(_BLOCK, np.int32), np.empty(_BLOCK, np.float32)
    most_points = positive.shape[1] + _ABREAST
    points, sums, slopes = np.empty(most_points, exact), np.empty(most_points, kind), np.empty(most_points, kind)
    for q in range(first, last):
        bins[q] = 0
        if counts[q] >= MANY:
            low, high = _range(scores[q])
            low -= exact(0.001) * width  # so that rounding leaves none below the first bin
            needed = (high - low) / width
            if high >= low and counts[q] * (candidates - _PER_BIN * needed) > MANY * candidates:
                centre[q], bins[q] = low, int(needed) + 2
        if bins[q] == 0:
            count_directly(scores, positive, counts, scale, out, centre, above, slope, q, q + 1)
            continue
        own = moments[: bins[q] + 1]
        own[:] = kind(0)
        for start in range(0, scores.shape[1], _BLOCK):
            block = read_from(scores, out)[q, start : start + _BLOCK]
            _locate(block, low, exact(1) / width, bins[q], places, distances)
            for j in range(len(block)):
                add_powers(own, np.uint32(places[j]), distances[j])
        padded = _pad(positive[q, : counts[q]], positive[q, 0], points)
        sums[:padded] = slopes[:padded] = kind(0)
        for b in range(bins[q]):
            if own[b, 0] > kind(0):
                middle = low + (exact(b) + exact(0.5)) * width
                _add(own[b], middle, points[:padded], exact(scale), sums, slopes)
        above[q, : counts[q]], slope[q, : counts[q]] = sums[: counts[q]], slopes[: counts[q]]


@jit
def _pad(row, other, out):  # type: ignore[no-untyped-def]
    """Copy a row, and ``other`` up to a multiple of ``_ABREAST`` values, whose number is returned."""
    padded = (len(row) + _ABREAST - 1) // _ABREAST * _ABREAST
    out[:padded] = other
    out[: len(row)] = row
    return padded


@jit
def _range(row):  # type: ignore[no-untyped-def]
    """Least and largest score of the candidates that are not hidden."""
    largest = row.dtype.type(3e38)
    lows, highs = np.full(_BLOCK, largest, row.dtype), np.full(_BLOCK, -largest, row.dtype)
    for start in range(0, len(row), _BLOCK):
        block = row[start : start + _BLOCK]
        for j in range(len(block)):  # each against its own, for many at once
            score = block[j]
            shown = score if score > -largest else largest
            lows[j] = min(lows[j], shown)
            highs[j] = max(highs[j], score)
    return lows.min(), highs.max()


@jit
def _locate(row, low, inverse, nowhere, places, distances):  # type: ignore[no-untyped-def]
    """Bin of each score and its distance from the middle, in units of the width; ``nowhere`` for the hidden."""
    exact = row.dtype.type
    for j in range(len(row)):
        place = (row[j] - low) * inverse
        place = place if place >= exact(0) else exact(nowhere) + exact(0.5)
        places[j] = np.int32(place)
        distances[j] = place - exact(places[j]) - exact(0.5)


@jit
def _add(moments, middle, positive, scale, above, slope):  # type: ignore[no-untyped-def]
    """Add to each positive what the candidates of a bin contribute to the sum and to its slope."""
    kind, exact = np.float32, positive.dtype.type
    one = kind(1)
    m0, m1, m2, m3 = moments[0], moments[1] * kind(_C1), moments[2] * kind(_C2), moments[3] * kind(_C3)
    m4, m5, m6, m7 = moments[4] * kind(_C4), moments[5] * kind(_C5), moments[6] * kind(_C6), moments[7] * kind(_C7)
    for i in range(len(positive)):
        power = (positive[i] - middle) * scale
        y = exp2(min(max(power, exact(-_FARTHEST)), exact(_FARTHEST)), one)
        x = one / (one + y)
        rest = x * y  # 1 - x, without cancellation
        p = x * rest
        r = rest - x
        third, fourth, fifth, sixth, seventh, eighth = _higher(p)
        even = m1 + third * m3 + fifth * m5 + seventh * m7
        odd = m2 + fourth * m4 + sixth * m6
        above[i] += x * m0 + p * (even + r * odd)
        even = m0 + third * m2 + fifth * m4 + seventh * m6
        odd = m1 + fourth * m3 + sixth * m5 + eighth * m7
        slope[i] += p * (even + r * odd)


@jit
def _higher(p):  # type: ignore[no-untyped-def]
    """Third to eighth derivative of the sigmoid over its first, p; every other one also over r = 1 - 2 sigma."""
    kind = np.float32
    one = kind(1)
    third, fourth = one - kind(6) * p, one - kind(12) * p
    fifth, sixth = one + p * (kind(120) * p - kind(30)), one + p * (kind(360) * p - kind(60))
    seventh = one + p * (p * (kind(1680) - kind(5040) * p) - kind(126))
    eighth = one + p * (p * (kind(5040) - kind(20160) * p) - kind(252))
    return third, fourth, fifth, sixth, seventh, eighth


@jit
def pull(scores, positive, counts, scale, out, centre, bins, by_above, first, last):  # type: ignore[no-untyped-def]
    """As :func:`numba_kernels.pull` does, after :func:`count`; hidden candidates get 0."""
    kind, exact = np.float32, scores.dtype.type
    width = exact(_WIDTH * 1.4426950408889634 / scale)
    table = np.empty((scores.shape[1] // _PER_BIN + 3, LANES), np.float32)
    places, distances = np.zeros(_BLOCK, np.int32), np.empty(_BLOCK, np.float32)
    values = np.empty(_BLOCK, np.float32)
    most_points = positive.shape[1] + _ABREAST
    points, weights = np.empty(most_points, exact), np.empty(most_points, kind)
    for q in range(first, last):
        if bins[q] == 0:
            pull_directly(scores, positive, counts, scale, out, centre, by_above, q, q + 1)
            continue
        padded = _pad(positive[q, : counts[q]], positive[q, 0], points)
        _pad(by_above[q, : counts[q]], kind(0), weights)
        low = exact(centre[q])
        for b in range(bins[q]):
            middle = low + (exact(b) + exact(0.5)) * width
            _expand(table[b], middle, points[:padded], weights, exact(scale))
        table[bins[q]] = kind(0)
        for start in range(0, scores.shape[1], _BLOCK):
            block = read_from(scores, out)[q, start : start + _BLOCK]
            _locate(block, low, exact(1) / width, bins[q], places, distances)
            for j in range(0, len(block), LANES):  # beyond the end of the last block: places found before
                read_eight(table, places, distances, j, values)
            out[q, start : start + _BLOCK] = values[: len(block)]


@jit
def _expand(coefficients, middle, positive, weights, scale):  # type: ignore[no-untyped-def]
    """Coefficients of the weighted slope about the middle of a bin."""
    kind, exact = np.float32, positive.dtype.type
    one = kind(1)
    t0 = t1 = t2 = t3 = t4 = t5 = t6 = t7 = kind(0)
    for i in range(len(positive)):
        power = (positive[i] - middle) * scale
        y = exp2(min(max(power, exact(-_FARTHEST)), exact(_FARTHEST)), one)
        x = one / (one + y)
        rest = x * y
        p = x * rest
        third, fourth, fifth, sixth, seventh, eighth = _higher(p)
        weighted = weights[i] * p
        turned = weighted * (rest - x)
        t0 += weighted
        t1 += turned
        t2 += weighted * third
        t3 += turned * fourth
        t4 += weighted * fifth
        t5 += turned * sixth
        t6 += weighted * seventh
        t7 += turned * eighth
    coefficients[0], coefficients[1] = t0, t1 * kind(_C1)
    coefficients[2], coefficients[3] = t2 * kind(_C2), t3 * kind(_C3)
    coefficients[4], coefficients[5] = t4 * kind(_C4), t5 * kind(_C5)
    coefficients[6], coefficients[7] = t6 * kind(_C6), t7 * kind(_C7)
