"""Compiled: from one row of similarities to the ranking's measures, ties included, without comparing pairs.

A gallery image becomes a 24-bit key: 23 bits of cosine distance, then a bit that is 0 when it is relevant.
A radix sort of the keys (two passes of 12 bits) puts the ranking in order, relevant images first among equals;
one walk over it meets every group of equal scores and adds what the tie rule says that group is worth.
"""

import numpy as np

from s2r2.system.jit import njit

EXPECTED, OPTIMISTIC, PESSIMISTIC = 0, 1, 2
RESOLUTION = 2.0**-22
"""Cosines are rounded to multiples of this: float32 dot products do not tell closer ones apart."""

_SCALE = np.float32(1 / RESOLUTION)
_WORST = 2**23 - 1
_DIGITS = 4096


@njit(nogil=True)
def count_bits(word: np.uint64) -> int:
    """Ones in a 64-bit word."""
    bits = 0
    while word:
        word &= word - np.uint64(1)
        bits += 1
    return bits


@njit(nogil=True)
def _in_common(a: np.ndarray, b: np.ndarray, several: bool) -> bool:
    if not several:
        return a[0] == b[0]
    for w in range(len(a)):  # noqa: SIM110 (compiled)
        if a[w] & b[w]:
            return True
    return False


@njit(nogil=True)
def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    shared = 0
    either = 0
    for w in range(len(a)):
        shared += count_bits(a[w] & b[w])
        either += count_bits(a[w] | b[w])
    return shared / either


@njit(nogil=True)
def _distance_key(similarity: np.float32) -> int:
    key = int((np.float32(1) - similarity) * _SCALE + np.float32(0.5))
    return min(max(key, 0), _WORST)


@njit(nogil=True)
def _sort(keys: np.ndarray, spare: np.ndarray, count: int, low: np.ndarray, high: np.ndarray) -> None:
    """Sort the first ``count`` 24-bit keys; ``low`` and ``high`` hold the counts of their 12-bit digits."""
    below_low = 0
    below_high = 0
    for digit in range(_DIGITS):
        here, low[digit] = low[digit], below_low
        below_low += here
        here, high[digit] = high[digit], below_high
        below_high += here
    for i in range(count):
        digit = keys[i] & 4095
        spare[low[digit]] = keys[i]
        low[digit] += 1
    for i in range(count):
        digit = spare[i] >> 12
        keys[high[digit]] = spare[i]
        high[digit] += 1


@njit(nogil=True)
def _group_precision(t: int, n: int, c: int, r: int, upto: int, harmonic: np.ndarray, ties: int) -> float:
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
def _group_hit(t: int, n: int, r: int, k: int, ties: int) -> float:
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
def _group_share(t: int, n: int, r: int, upto: int, ties: int) -> float:
    """Relevant images of a group that fall on ranks up to ``upto``."""
    m = min(n, max(0, upto - t))
    if ties == EXPECTED:
        return r * m / n
    if ties == OPTIMISTIC:
        return float(min(r, m))
    return float(max(0, m - (n - r)))


@njit(nogil=True)
def _edge(keys: np.ndarray, count: int, bound: int) -> int:
    """How many of the sorted keys are below ``bound``."""
    low = 0
    high = count
    while low < high:
        middle = (low + high) // 2
        if keys[middle] < bound:
            low = middle + 1
        else:
            high = middle
    return low


@njit(nogil=True)
def _dcg(
    keys: np.ndarray, count: int, distances: np.ndarray, gains: np.ndarray, discounts: np.ndarray, ties: int
) -> float:
    """Discounted gain over its ideal; an image in a group of equal scores gets what the tie rule gives it."""
    by_gain = np.argsort(-gains)
    got = 0.0
    ideal = 0.0
    place = np.zeros(len(gains), np.int64)
    if ties != EXPECTED:  # ranks inside groups: the best gains first, or last
        order = by_gain[np.argsort(distances[by_gain], kind="mergesort")]
        start = 0
        while start < len(order):
            stop = start
            while stop < len(order) and distances[order[stop]] == distances[order[start]]:
                stop += 1
            for i in range(start, stop):
                place[order[i]] = i - start
            start = stop
    for i in range(len(gains)):
        gain = gains[i]
        t = _edge(keys, count, distances[i] << 1)
        end = _edge(keys, count, (distances[i] + 1) << 1)
        if ties == EXPECTED:
            got += gain * (discounts[end] - discounts[t]) / (end - t)
        elif ties == OPTIMISTIC:
            got += gain * (discounts[t + place[i] + 1] - discounts[t + place[i]])
        else:
            got += gain * (discounts[end - place[i]] - discounts[end - place[i] - 1])
        ideal += gains[by_gain[i]] * (discounts[i + 1] - discounts[i])
    return got / ideal


@njit(nogil=True)
def measure_rows(
    similarities: np.ndarray,
    scales: np.ndarray,
    query_words: np.ndarray,
    gallery_words: np.ndarray,
    several: bool,
    exclude: np.ndarray,
    ks: np.ndarray,
    ties: int,
    harmonic: np.ndarray,
    discounts: np.ndarray,
    out: np.ndarray,
) -> None:
    """Measures of each query's ranking.

    Args:
        similarities: ``(Q, M)`` float32 dot products of unit queries with gallery rows.
        scales: ``(M,)`` float32, one over each gallery row's length.
        query_words: ``(Q, W)`` uint64 labels, see :class:`~s2r2.evaluation.metrics.relevance.Relevance`.
        gallery_words: ``(M, W)`` uint64 labels.
        several: Whether the words hold bits.
        exclude: ``(Q,)`` int64 gallery index that is no candidate (the query itself), -1 for none.
        ks: ``(K,)`` int64 cut-offs of Recall@k.
        ties: EXPECTED, OPTIMISTIC or PESSIMISTIC.
        harmonic: ``(M + 1,)`` sums of 1/i.
        discounts: ``(M + 1,)`` sums of 1/log2(1 + i); length 0 leaves nDCG out.
        out: ``(Q, 6 + K)`` float64, filled: relevant images, AP's span over tie rules, AP, AP@R,
            R-Precision, nDCG, Recall@k.
    """
    gallery = similarities.shape[1]
    keys = np.empty(gallery, np.uint32)
    spare = np.empty(gallery, np.uint32)
    graded = len(discounts) > 0
    gains = np.empty(gallery if graded else 0)
    distances = np.empty(gallery if graded else 0, np.int64)
    for q in range(similarities.shape[0]):
        low = np.zeros(_DIGITS, np.int64)
        high = np.zeros(_DIGITS, np.int64)
        count = 0
        relevant = 0
        for j in range(gallery):
            if j == exclude[q]:
                continue
            distance = _distance_key(similarities[q, j] * scales[j])
            same = _in_common(query_words[q], gallery_words[j], several)
            key = (distance << 1) | (0 if same else 1)
            if same:
                if graded:
                    gains[relevant] = _jaccard(query_words[q], gallery_words[j]) if several else 1.0
                    distances[relevant] = distance
                relevant += 1
            keys[count] = key
            low[key & 4095] += 1
            high[key >> 12] += 1
            count += 1
        out[q, :] = 0.0
        out[q, 0] = relevant
        if relevant == 0:
            out[q, 1:] = np.nan
            continue
        _sort(keys, spare, count, low, high)
        _walk(keys, count, relevant, ks, ties, harmonic, out[q])
        out[q, 5] = _dcg(keys, count, distances[:relevant], gains[:relevant], discounts, ties) if graded else np.nan


@njit(nogil=True)
def _walk(
    keys: np.ndarray, count: int, relevant: int, ks: np.ndarray, ties: int, harmonic: np.ndarray, out: np.ndarray
) -> None:
    """Fill one row of :func:`measure_rows` from its sorted keys."""
    t = 0
    c = 0
    while c < relevant:
        score = keys[t] >> 1
        n = 0
        r = 0
        while t + n < count and keys[t + n] >> 1 == score:
            r += 1 - (keys[t + n] & 1)
            n += 1
        if r > 0:
            if c == 0:
                for i in range(len(ks)):
                    out[6 + i] = _group_hit(t, n, r, ks[i], ties)
            if r < n:
                best = _group_precision(t, n, c, r, count, harmonic, OPTIMISTIC)
                out[1] += best - _group_precision(t, n, c, r, count, harmonic, PESSIMISTIC)
            out[2] += _group_precision(t, n, c, r, count, harmonic, ties)
            out[3] += _group_precision(t, n, c, r, relevant, harmonic, ties)
            out[4] += _group_share(t, n, r, relevant, ties)
        t += n
        c += r
    for column in range(1, 5):
        out[column] /= relevant
