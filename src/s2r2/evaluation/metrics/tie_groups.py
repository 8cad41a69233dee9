"""Compiled: what a group of equal scores is worth at its place of a ranking, under each rule for ties."""

import numpy as np

from s2r2.system.jit import njit

EXPECTED, OPTIMISTIC, PESSIMISTIC = 0, 1, 2


@njit(nogil=True)
def group_precision(t: int, n: int, c: int, r: int, upto: int, harmonic: np.ndarray, ties: int) -> float:
    """Sum of precisions at the relevant images of one group of equal scores, over ranks up to ``upto``.

    ``t`` images rank before the group, ``c`` of them relevant; the group has ``n`` images, ``r`` relevant.
    Expected: the mean over all orders of the group (McSherry and Najork 2008, section 4).
    """
    m = min(n, upto - t)
    if m <= 0 or r == 0:
        return 0.0
    if n == 1:
        return (c + 1.0) / (t + 1.0)
    if ties == EXPECTED:
        span = harmonic[t + m] - harmonic[t]
        return r / n * ((c + 1.0) * span + (r - 1.0) / (n - 1.0) * (m - (t + 1.0) * span))
    first = t if ties == OPTIMISTIC else t + n - r
    total = 0.0
    for i in range(1, r + 1):
        if first + i <= upto:
            total += (c + i) / (first + i)
    return total


@njit(nogil=True)
def group_hit(t: int, n: int, r: int, k: int, ties: int) -> float:
    """Chance that the first group with relevant images puts one of them among the first ``k``."""
    m = min(n, k - t)
    if m <= 0:
        return 0.0
    if ties == OPTIMISTIC or m > n - r:
        return 1.0
    if ties == PESSIMISTIC:
        return 0.0
    miss = 1.0
    for i in range(m):
        miss *= (n - r - i) / (n - i)
    return 1.0 - miss


@njit(nogil=True)
def group_share(t: int, n: int, r: int, upto: int, ties: int) -> float:
    """Relevant images of a group that fall on ranks up to ``upto``."""
    m = min(n, max(0, upto - t))
    if r == 0:
        return 0.0
    if ties == EXPECTED:
        return r * m / n
    if ties == OPTIMISTIC:
        return float(min(r, m))
    return float(max(0, m - (n - r)))
