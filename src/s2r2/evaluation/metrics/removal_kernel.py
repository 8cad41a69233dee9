"""Compiled: what each figure of a ranking would be without one of the ranked images, for all of them at once.

Between two groups of equal scores that hold relevant images all others are alike, so that a ranking with G such groups
has G + 1 gaps and G groups in which a removed image can lie: a table of so many values answers for every image.
"""

import numpy as np

from s2r2.evaluation.metrics.tie_groups import EXPECTED, group_hit, group_precision, group_share
from s2r2.system.jit import njit

_AP, _SHARE, _NDCG, _HITS = 0, 2, 3, 4


@njit(nogil=True)
def add_removals(
    keys: np.ndarray,
    images: np.ndarray,
    relevant: int,
    gains: np.ndarray,
    numbers: np.ndarray,
    ks: np.ndarray,
    harmonic: np.ndarray,
    discounts: np.ndarray,
    groups: bool,
    measures: np.ndarray,
    changes: np.ndarray,
    squares: np.ndarray,
) -> None:
    """Add to each image's row what its absence would change for one query; equal scores count as expected.

    Args:
        keys: ``(N,)`` sorted keys of the ranking: distance times 2, plus 1 where not relevant.
        images: ``(N,)`` or longer, their gallery indices.
        relevant: How many are relevant, at least 1.
        gains: The first ``relevant`` are the gains of the relevant images; or empty.
        numbers: ``(M,)`` where among them those of an image are; or empty.
        ks: ``(K,)`` cut-offs of Recall@k.
        harmonic: Sums of 1/i.
        discounts: Sums of 1/log2(1 + i); empty without nDCG.
        groups: Whether relevant images are left out, because the query goes with them.
        measures: ``(6 + K,)`` of the whole ranking: relevant, tie span, AP, AP@R, R-Precision, nDCG, Recall@k.
        changes: ``(M, 5 + K)``, added to: changes of AP, AP@R, R-Precision, nDCG, Recall@k; last, how often a query
            loses its only relevant image. All figures of that query are then taken away.
        squares: ``(4 + K,)``, added to: squares of those changes, queries that are lost left out.
    """
    start, size, found = _relevant_groups(keys, relevant)
    other, own = _tables(len(keys), start, size, found, relevant, ks, harmonic)
    other -= measures[2:]
    own -= measures[2:]
    graded = len(discounts) > 0
    other[:, _NDCG], own[:, _NDCG] = 0.0, 0.0
    if graded:
        reached, ideal, by_group = _gained(images, start, size, gains[:relevant], numbers, discounts, keys)
    figures = len(measures) - 2
    g, end = 0, start[0] + size[0]
    for place in range(len(keys)):
        if place == end:
            g += 1
            end = start[g] + size[g] if g < len(start) else -1
        inside = g < len(start) and place >= start[g]
        j = images[place]
        gain, whole = 0.0, relevant
        if keys[place] & 1:
            slot = 2 * g + (1 if inside else 0)
            for f in range(figures):
                changes[j, f] += other[slot, f]
                squares[f] += other[slot, f] ** 2
        elif groups:
            continue
        elif relevant == 1:
            for f in range(figures):
                changes[j, f] -= measures[2 + f]
            changes[j, figures] += 1
            continue
        else:
            for f in range(figures):
                changes[j, f] += own[g, f]
                squares[f] += own[g, f] ** 2
            if graded:
                whole = numbers[j]
                gain = gains[whole]
        if graded:
            gained = _gained_without(g, inside, gain, start, size, by_group, reached, discounts)
            change = gained / ideal[whole] - measures[2 + _NDCG]
            changes[j, _NDCG] += change
            squares[_NDCG] += change**2


@njit(nogil=True)
def _relevant_groups(keys: np.ndarray, relevant: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each group of equal scores with relevant images: images before it, its size, and its relevant images."""
    start = np.empty(relevant, np.int64)
    size = np.empty(relevant, np.int64)
    found = np.empty(relevant, np.int64)
    groups, t, left = 0, 0, relevant
    while left > 0:
        n, r = 0, 0
        while t + n < len(keys) and keys[t + n] >> 1 == keys[t] >> 1:
            r += 1 - (keys[t + n] & 1)
            n += 1
        if r > 0:
            start[groups], size[groups], found[groups] = t, n, r
            groups += 1
        t += n
        left -= r
    return start[:groups], size[:groups], found[:groups]


@njit(nogil=True)
def _worth(figure: int, t: int, n: int, c: int, r: int, upto: int, harmonic: np.ndarray) -> float:
    if figure == _SHARE:
        return group_share(t, n, r, upto, EXPECTED)
    return group_precision(t, n, c, r, upto, harmonic, EXPECTED)


@njit(nogil=True)
def _tables(
    count: int,
    start: np.ndarray,
    size: np.ndarray,
    found: np.ndarray,
    relevant: int,
    ks: np.ndarray,
    harmonic: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Figures without one image: an irrelevant one from a gap or a group ``(2G + 1, F)``, a relevant one ``(G, F)``.

    Slot 2g of the first is the gap before group g, slot 2g + 1 the group. Columns are AP, AP@R, R-Precision, 0 in the
    place of nDCG, and Recall@k.
    """
    groups = len(start)
    other = np.zeros((2 * groups + 1, _HITS + len(ks)))
    own = np.zeros((groups, _HITS + len(ks)))
    after = np.zeros(groups + 1)
    for figure in range(_SHARE + 1):
        for taken in range(2):  # 0: an irrelevant image, 1: a relevant one
            left = relevant - taken
            if left == 0:
                continue
            upto = count - 1 if figure == _AP else left
            after[groups] = 0.0
            c = relevant
            for g in range(groups - 1, -1, -1):
                c -= found[g]
                after[g] = after[g + 1]
                if start[g] > 0 and c >= taken:
                    after[g] += _worth(figure, start[g] - 1, size[g], c - taken, found[g], upto, harmonic)
            before, c = 0.0, 0
            for g in range(groups):
                t, n, r = start[g], size[g], found[g]
                if taken:
                    inside = _worth(figure, t, n - 1, c, r - 1, upto, harmonic)
                    own[g, figure] = (before + inside + after[g + 1]) / left
                else:
                    other[2 * g, figure] = (before + after[g]) / left
                    if n > r:
                        inside = _worth(figure, t, n - 1, c, r, upto, harmonic)
                        other[2 * g + 1, figure] = (before + inside + after[g + 1]) / left
                before += _worth(figure, t, n, c, r, upto, harmonic)
                c += r
            if not taken:
                other[2 * groups, figure] = before / left
    for i in range(len(ks)):
        t, n, r, k = start[0], size[0], found[0], ks[i]
        other[:, _HITS + i] = group_hit(t, n, r, k, EXPECTED)
        own[:, _HITS + i] = other[0, _HITS + i]
        if t > 0:
            other[0, _HITS + i] = group_hit(t - 1, n, r, k, EXPECTED)
        if n > r:
            other[1, _HITS + i] = group_hit(t, n - 1, r, k, EXPECTED)
        if r > 1:
            own[0, _HITS + i] = group_hit(t, n - 1, r - 1, k, EXPECTED)
        elif groups > 1:
            own[0, _HITS + i] = group_hit(start[1] - 1, size[1], found[1], k, EXPECTED)
    return other, own


@njit(nogil=True)
def _gained(
    images: np.ndarray,
    start: np.ndarray,
    size: np.ndarray,
    gains: np.ndarray,
    numbers: np.ndarray,
    discounts: np.ndarray,
    keys: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What nDCG needs.

    Returns:
        ``(2, G + 1)`` discounted gain of all groups before one, and of it and all behind it when one image before them
        is missing; ``(R + 1,)`` the ideal without each relevant image, last the whole; ``(G,)`` gain of each group.
    """
    groups, relevant = len(start), len(gains)
    by_group = np.zeros(groups)
    for g in range(groups):
        for place in range(start[g], start[g] + size[g]):
            if keys[place] & 1 == 0:
                by_group[g] += gains[numbers[images[place]]]
    reached = np.zeros((2, groups + 1))
    for g in range(groups):
        t, n = start[g], size[g]
        reached[0, g + 1] = reached[0, g] + by_group[g] * (discounts[t + n] - discounts[t]) / n
    for g in range(groups - 1, -1, -1):
        t, n = start[g], size[g]
        reached[1, g] = reached[1, g + 1]
        if t > 0:
            reached[1, g] += by_group[g] * (discounts[t + n - 1] - discounts[t - 1]) / n
    order = np.argsort(-gains)
    behind = 0.0
    ideal = np.zeros(relevant + 1)
    for place in range(relevant - 1, -1, -1):  # those behind move up by one
        ideal[order[place]] = behind
        if place > 0:
            behind += gains[order[place]] * (discounts[place] - discounts[place - 1])
    before = 0.0
    for place in range(relevant):
        ideal[order[place]] += before
        before += gains[order[place]] * (discounts[place + 1] - discounts[place])
    ideal[relevant] = before
    return reached, ideal, by_group


@njit(nogil=True)
def _gained_without(
    g: int,
    inside: bool,
    gain: float,
    start: np.ndarray,
    size: np.ndarray,
    by_group: np.ndarray,
    reached: np.ndarray,
    discounts: np.ndarray,
) -> float:
    """Discounted gain without an image of this gain from group g, or from the gap before it."""
    if not inside:
        return reached[0, g] + reached[1, g]
    t, n = start[g], size[g]
    left = (by_group[g] - gain) * (discounts[t + n - 1] - discounts[t]) / (n - 1) if n > 1 else 0.0
    return reached[0, g] + left + reached[1, g + 1]
