"""Ranks of many positives among many candidates, at a cost for each candidate that does not grow with the positives.

A query's candidates go into bins of width T/2, and a bin keeps the moments of its scores about its middle c. With d the
distance from the middle and sigma^(m) the m-th derivative of the sigmoid at (c - s_i) / T,

    sum over j in the bin of sigmoid((s_j - s_i) / T) = sum over m of sigma^(m) / m! * sum over j of (d_j / T)^m.

The nearest poles of the sigmoid are i pi T away from the real axis and d is at most T/4, so that what is left out after
``_TERMS`` terms is a share of about (1/4 / pi)^_TERMS = 2.5e-7 of the sum, however small the sum: float32's own error.
The gradient at a candidate, sum over i of w_i sigma'((s_j - s_i) / T), is one function of s_j for each query; its
coefficients in each bin are summed over the positives, and read at each candidate.
"""

from __future__ import annotations

import numpy as np

from s2r2.losses.backends.numba_kernels import count as count_directly, exp2, jit, pull as pull_directly

MANY = 48
"""Positives from which on moments are faster than one reciprocal for each positive and candidate."""
_WORTH = 8
"""Candidates for each bin, on average, below which moments are not worth it."""
_BLOCK = 512
"""Candidates whose bins are found at once."""
_TERMS = 6
_FARTHEST = 126.0
"""Powers of two beyond which float32 has no reciprocal."""


@jit
def count(scores, positive, counts, scale, centre, bins, above, slope, first, last):  # type: ignore[no-untyped-def]
    """As :func:`numba_kernels.count` does for float32, by moments where that is faster.

    ``bins`` then has a row's number of bins, ``centre`` the lower end of the first, and the scores stay; else it has 0.
    """
    kind = np.float32
    width = kind(0.5 * 1.4426950408889634 / scale)
    most = scores.shape[1] // _WORTH
    moments = np.empty((most + 3, 8), np.float32)
    places, distances = np.empty(_BLOCK, np.int32), np.empty(_BLOCK, np.float32)
    for q in range(first, last):
        bins[q] = 0
        if counts[q] >= MANY:
            low, high = _range(scores[q])
            low -= kind(0.001) * width  # so that rounding leaves none below the first bin
            if high >= low and (high - low) / width < most:
                centre[q], bins[q] = low, int((high - low) / width) + 2
        if bins[q] == 0:
            count_directly(scores, positive, counts, scale, centre, above, slope, q, q + 1)
            continue
        own = moments[: bins[q] + 1]
        own[:] = kind(0)
        for start in range(0, scores.shape[1], _BLOCK):
            block = scores[q, start : start + _BLOCK]
            _locate(block, low, kind(1) / width, bins[q], places, distances)
            _fill(places[: len(block)], distances, own)
        for b in range(bins[q]):
            if own[b, 0] > kind(0):
                middle = low + (kind(b) + kind(0.5)) * width
                _add(own[b], middle, positive[q, : counts[q]], kind(scale), above[q], slope[q])


@jit
def _range(row):  # type: ignore[no-untyped-def]
    """Least and largest score of the candidates that are not hidden."""
    largest = np.float32(3e38)
    low, high = largest, -largest
    for j in range(len(row)):
        low = min(low, row[j] if row[j] > -largest else largest)
        high = max(high, row[j])
    return low, high


@jit
def _locate(row, low, inverse, nowhere, places, distances):  # type: ignore[no-untyped-def]
    """Bin of each score and its distance from the middle, in units of the width; ``nowhere`` for the hidden."""
    for j in range(len(row)):
        place = (row[j] - low) * inverse
        place = place if place >= np.float32(0) else np.float32(nowhere) + np.float32(0.5)
        places[j] = np.int32(place)
        distances[j] = place - np.float32(places[j]) - np.float32(0.5)


@jit
def _fill(places, distances, moments):  # type: ignore[no-untyped-def]
    """Add 1, d, d^2 ... of each score to its bin."""
    for j in range(len(places)):
        d = distances[j]
        squared = d * d
        own = moments[np.uint32(places[j])]
        own[0] += np.float32(1)
        own[1] += d
        own[2] += squared
        own[3] += squared * d
        own[4] += squared * squared
        own[5] += squared * squared * d


@jit
def _add(moments, middle, positive, scale, above, slope):  # type: ignore[no-untyped-def]
    """Add to each positive what the candidates of a bin contribute to the sum and to its slope."""
    kind = np.float32
    one = kind(1)
    m0, m1, m2 = moments[0], moments[1] * kind(0.5), moments[2] * kind(0.5**2 / 2)
    m3, m4, m5 = moments[3] * kind(0.5**3 / 6), moments[4] * kind(0.5**4 / 24), moments[5] * kind(0.5**5 / 120)
    for i in range(len(positive)):
        power = (positive[i] - middle) * scale
        y = exp2(min(max(power, kind(-_FARTHEST)), kind(_FARTHEST)))
        x = one / (one + y)
        rest = x * y  # 1 - x, without cancellation
        p = x * rest
        r = rest - x
        p2 = p * p
        turned = p * r
        third = p - kind(6) * p2
        fourth = (one - kind(12) * p) * turned
        fifth = p - kind(30) * p2 + kind(120) * p2 * p
        sixth = turned * (one - kind(60) * p + kind(360) * p2)
        above[i] += x * m0 + p * m1 + turned * m2 + third * m3 + fourth * m4 + fifth * m5
        slope[i] += p * m0 + turned * m1 + third * m2 + fourth * m3 + fifth * m4 + sixth * m5


@jit
def pull(scores, positive, counts, scale, centre, bins, by_above, first, last):  # type: ignore[no-untyped-def]
    """As :func:`numba_kernels.pull` does, after :func:`count`; hidden candidates get 0."""
    kind = np.float32
    width = kind(0.5 * 1.4426950408889634 / scale)
    table = np.empty((scores.shape[1] // _WORTH + 3, 8), np.float32)
    places, distances = np.empty(_BLOCK, np.int32), np.empty(_BLOCK, np.float32)
    for q in range(first, last):
        if bins[q] == 0:
            pull_directly(scores, positive, counts, scale, centre, by_above, q, q + 1)
            continue
        for b in range(bins[q]):
            middle = centre[q] + (kind(b) + kind(0.5)) * width
            _expand(table[b], middle, positive[q, : counts[q]], by_above[q], kind(scale))
        table[bins[q]] = kind(0)
        for start in range(0, scores.shape[1], _BLOCK):
            block = scores[q, start : start + _BLOCK]
            _locate(block, centre[q], kind(1) / width, bins[q], places, distances)
            _read(places[: len(block)], distances, table, block)


@jit
def _expand(coefficients, middle, positive, weights, scale):  # type: ignore[no-untyped-def]
    """Coefficients of the weighted slope about the middle of a bin."""
    kind = np.float32
    one = kind(1)
    t0 = t1 = t2 = t3 = t4 = t5 = kind(0)
    for i in range(len(positive)):
        power = (positive[i] - middle) * scale
        y = exp2(min(max(power, kind(-_FARTHEST)), kind(_FARTHEST)))
        x = one / (one + y)
        rest = x * y
        p = x * rest
        r = rest - x
        p2 = p * p
        weighted = weights[i] * p
        turned = weighted * r
        t0 += weighted
        t1 += turned
        t2 += weighted * (one - kind(6) * p)
        t3 += turned * (one - kind(12) * p)
        t4 += weighted * (one - kind(30) * p + kind(120) * p2)
        t5 += turned * (one - kind(60) * p + kind(360) * p2)
    coefficients[0], coefficients[1], coefficients[2] = t0, t1 * kind(0.5), t2 * kind(0.5**2 / 2)
    coefficients[3], coefficients[4] = t3 * kind(0.5**3 / 6), t4 * kind(0.5**4 / 24)
    coefficients[5] = t5 * kind(0.5**5 / 120)


@jit
def _read(places, distances, table, out):  # type: ignore[no-untyped-def]
    """The polynomial of each score's bin at its distance."""
    for j in range(len(places)):
        d = distances[j]
        a = table[np.uint32(places[j])]
        out[j] = a[0] + d * (a[1] + d * (a[2] + d * (a[3] + d * (a[4] + d * a[5]))))
