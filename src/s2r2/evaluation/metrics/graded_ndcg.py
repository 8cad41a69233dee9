"""nDCG of rankings in which photos are right to different degrees, with what each photo does to the figure."""

from typing import NamedTuple

import numpy as np

from s2r2.evaluation.metrics.jackknife import pseudo_values
from s2r2.evaluation.metrics.vectors import unit_rows

STEP = 2.0**-22
"""Float32 products do not tell cosines apart that are closer."""


class GradedRanking(NamedTuple):
    """What is known of the rankings.

    Attributes:
        ndcg: ``(N,)`` of each query, NaN for one to which no other photo belongs.
        pseudo_values: ``(N,)`` whose spread gives the interval of the mean, see
            :func:`~s2r2.evaluation.metrics.jackknife.pseudo_values`.
    """

    ndcg: np.ndarray
    pseudo_values: np.ndarray


def graded_ndcg(vectors: np.ndarray, groups: np.ndarray, *, memory: int = 1 << 24) -> GradedRanking:
    """Each photo in turn ranks all others by cosine; one that shares s groups with it has the gain s.

    Equal cosines are worth the mean over their orders. Discounts are 1 / log2(1 + place): Järvelin and Kekäläinen 2002,
    *Cumulated Gain-based Evaluation of IR Techniques*.

    Args:
        vectors: ``(N, D)``, of any length but 0.
        groups: ``(N, L)`` group of each photo at each grade, the finest first; each lies within one of the next.
        memory: Bytes for similarities at a time.
    """
    units = unit_rows(vectors, "vectors")
    count = len(units)
    places = np.concatenate([[0.0], np.cumsum(1 / np.log2(1 + np.arange(1, count + 1, dtype=np.float64)))])
    ndcg, changes, lost, squares = np.full(count, np.nan), np.zeros(count), np.zeros(count), 0.0
    rows = max(1, memory // (8 * count))
    for start in range(0, count, rows):
        part = np.arange(start, min(start + rows, count))
        values, without = _rank(units, groups, part, places)
        ndcg[part] = values
        gone = np.isfinite(values)[:, None] & ~np.isfinite(without)  # a query whose last right photo is left out
        change = np.where(np.isfinite(values)[:, None], np.nan_to_num(without) - np.nan_to_num(values)[:, None], 0.0)
        change[np.arange(len(part)), part] = 0.0  # the query itself is counted by pseudo_values
        changes += change.sum(0)
        squares += float((change**2).sum())
        lost += gone.sum(0)
    return GradedRanking(ndcg, pseudo_values(ndcg, changes, squares, lost))


def _rank(units: np.ndarray, groups: np.ndarray, part: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(Q,)`` nDCG of some queries, and ``(Q, N)`` what it would be without each photo; NaN where nothing is right."""
    scores = np.round(units[part] @ units.T / STEP)
    scores[np.arange(len(part)), part] = -np.inf  # last, and without a gain
    shared = groups[part][:, None, :] == groups[None]
    shared[np.arange(len(part)), part] = False
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, 1)
    gains = np.take_along_axis(shared.sum(2), order, 1).astype(np.float64)
    first, last = _ties(ranked)
    gained = np.concatenate([np.zeros((len(part), 1)), np.cumsum(gains, 1)], axis=1)
    tied = np.take_along_axis(gained, last + 1, 1) - np.take_along_axis(gained, first, 1)
    size = last + 1 - first
    here = (places[last + 1] - places[first]) / size  # mean discount of the places that a tie takes
    closer = (places[last] - places[np.maximum(first - 1, 0)]) / size  # the same after one before it has gone
    smaller = np.where(size > 1, (places[last] - places[first]) / np.maximum(size - 1, 1), 0.0)
    before = np.concatenate([np.zeros((len(part), 1)), np.cumsum(gains * here, 1)], axis=1)
    after = np.concatenate([np.zeros((len(part), 1)), np.cumsum(gains * closer, 1)], axis=1)
    found = (
        np.take_along_axis(before, first, 1)
        + (tied - gains) * smaller
        + after[:, -1:]
        - np.take_along_axis(after, last + 1, 1)
    )
    without = np.empty_like(found)
    np.put_along_axis(without, order, found, 1)
    right = shared.sum(1)
    ideal = places[right].sum(1)
    less = (places[right][:, None, :] - np.where(shared, 1 / np.log2(1 + np.maximum(right, 1))[:, None, :], 0.0)).sum(2)
    return _ratio(before[:, -1], ideal), _ratio(without, less)


def _ties(ranked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(Q, N)`` first and last place of those with an equal score, from 0."""
    places = np.arange(ranked.shape[1])
    new = np.ones(ranked.shape, bool)
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    first = np.maximum.accumulate(np.where(new, places, 0), axis=1)
    ends = np.concatenate([new[:, 1:], np.ones((len(ranked), 1), bool)], axis=1)
    last = np.minimum.accumulate(np.where(ends, places, ranked.shape[1])[:, ::-1], axis=1)[:, ::-1]
    return first, last


def _ratio(gained: np.ndarray, ideal: np.ndarray) -> np.ndarray:
    return np.where(ideal > 1e-12, gained / np.maximum(ideal, 1e-12), np.nan)
