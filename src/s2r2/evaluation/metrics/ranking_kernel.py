"""Compiled: from one row of similarities to the ranking's measures, ties included, without comparing pairs.

A gallery image becomes a 24-bit key: 23 bits of cosine distance, then a bit that is 0 when it is relevant.
A radix sort of the keys (two passes of 12 bits) puts the ranking in order, relevant images first among equals;
one walk over it meets every group of equal scores and adds what the tie rule says that group is worth.
"""

import numpy as np

from s2r2.evaluation.metrics.removal_kernel import add_removals
from s2r2.evaluation.metrics.tie_groups import (
    EXPECTED,
    OPTIMISTIC,
    PESSIMISTIC,
    group_hit,
    group_precision,
    group_share,
)
from s2r2.system.jit import njit

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
def _sort(
    keys: np.ndarray,
    spare: np.ndarray,
    images: np.ndarray,
    spare_images: np.ndarray,
    count: int,
    low: np.ndarray,
    high: np.ndarray,
) -> None:
    """Sort the first ``count`` 24-bit keys, and their ``images`` along with them unless these have length 0.

    ``low`` and ``high`` hold the counts of the keys' 12-bit digits.
    """
    along = len(images) > 0
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
        if along:
            spare_images[low[digit]] = images[i]
        low[digit] += 1
    for i in range(count):
        digit = spare[i] >> 12
        keys[high[digit]] = spare[i]
        if along:
            images[high[digit]] = spare_images[i]
        high[digit] += 1


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
    changes: np.ndarray,
    squares: np.ndarray,
    groups: bool,
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
        changes: ``(M, 5 + K)`` float64, see :func:`~s2r2.evaluation.metrics.removal_kernel.add_removals`; of length 0
            where nobody asks what removed images change.
        squares: ``(4 + K,)`` float64, of all of these changes.
        groups: Whether an image is removed together with all that are relevant to it: queries to which it is relevant
            go as well, and do not count as changed.
    """
    gallery = similarities.shape[1]
    keys = np.empty(gallery, np.uint32)
    spare = np.empty(gallery, np.uint32)
    graded = len(discounts) > 0
    gains = np.empty(gallery if graded else 0)
    distances = np.empty(gallery if graded else 0, np.int64)
    removing = len(changes) > 0
    images = np.empty(gallery if removing else 0, np.uint32)
    spare_images = np.empty(gallery if removing else 0, np.uint32)
    numbers = np.empty(gallery if removing and graded else 0, np.int64)  # of the gains of relevant images
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
                    if removing:
                        numbers[j] = relevant
                relevant += 1
            keys[count] = key
            if removing:
                images[count] = j
            low[key & 4095] += 1
            high[key >> 12] += 1
            count += 1
        out[q, :] = 0.0
        out[q, 0] = relevant
        if relevant == 0:
            out[q, 1:] = np.nan
            continue
        _sort(keys, spare, images, spare_images, count, low, high)
        _walk(keys, count, relevant, ks, ties, harmonic, out[q])
        out[q, 5] = _dcg(keys, count, distances[:relevant], gains[:relevant], discounts, ties) if graded else np.nan
        if removing:
            add_removals(
                keys[:count],
                images,
                relevant,
                gains,
                numbers,
                ks,
                harmonic,
                discounts,
                groups,
                out[q],
                changes,
                squares,
            )


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
                    out[6 + i] = group_hit(t, n, r, ks[i], ties)
            if r < n:
                best = group_precision(t, n, c, r, count, harmonic, OPTIMISTIC)
                out[1] += best - group_precision(t, n, c, r, count, harmonic, PESSIMISTIC)
            out[2] += group_precision(t, n, c, r, count, harmonic, ties)
            out[3] += group_precision(t, n, c, r, relevant, harmonic, ties)
            out[4] += group_share(t, n, r, relevant, ties)
        t += n
        c += r
    for column in range(1, 5):
        out[column] /= relevant
