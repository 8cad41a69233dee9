"""Recall of approximate search on the index itself, by which backends choose their settings."""

import time
from collections.abc import Iterable

import numpy as np

from s2r2.search.backends.base import SearchBackend, Settings
from s2r2.search.backends.exact import top_k

RECALL = 0.97
_NEIGHBORS = 10
_QUERIES, _EXACT_QUERIES = 200, 9
_PIECE = 16_384


def cheapest(vectors: np.ndarray, backends: Iterable[SearchBackend]) -> Settings | None:
    """The settings of the first backend whose recall@10 is at least 0.97, for photos of the index as queries.

    Args:
        vectors: ``(N, D)``.
        backends: Of these vectors; those of least effort first.

    Returns:
        Its settings with the ``recall`` reached, and the ``milliseconds`` that it and exact search take for a query
        (medians). None where none reaches the recall.
    """
    queries = np.sort(np.random.default_rng(0).choice(len(vectors), min(_QUERIES, len(vectors)), replace=False))
    nearest = _nearest(vectors, queries)
    for backend in backends:
        seconds, recalls = [], []
        for query, wanted in zip(queries, nearest, strict=True):
            start = time.perf_counter()
            rows, _ = backend.search(vectors[query], _NEIGHBORS + 1)
            seconds.append(time.perf_counter() - start)
            recalls.append(np.isin(wanted, rows[rows != query][:_NEIGHBORS]).mean() if len(wanted) else 1.0)
        recall = round(float(np.mean(recalls)), 4)
        if recall >= RECALL:
            return {
                **backend.settings,
                "recall": recall,
                "milliseconds": _milliseconds(seconds),
                "exact_milliseconds": _exact_milliseconds(vectors, queries),
            }
    return None


def _nearest(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The nearest photos of some photos, ``(Q, 10)`` or fewer: all queries at once, so that vectors are read once."""
    if len(vectors) <= _NEIGHBORS:
        return np.array([np.delete(np.arange(len(vectors)), query) for query in queries])
    asked = np.ascontiguousarray(vectors[queries])
    scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start in range(0, len(vectors), _PIECE):
        found = asked @ np.asarray(vectors[start : start + _PIECE]).T
        here = np.flatnonzero((queries >= start) & (queries < start + _PIECE))
        found[here, queries[here] - start] = -np.inf
        scores = np.concatenate([scores, found], axis=1)
        rows = np.concatenate([rows, np.broadcast_to(np.arange(start, start + found.shape[1]), found.shape)], axis=1)
        count = min(_NEIGHBORS, scores.shape[1])
        best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
    return rows


def _exact_milliseconds(vectors: np.ndarray, queries: np.ndarray) -> float:
    seconds = []
    for query in queries[:_EXACT_QUERIES]:
        start = time.perf_counter()
        top_k(vectors, vectors[query], _NEIGHBORS + 1)
        seconds.append(time.perf_counter() - start)
    return _milliseconds(seconds)


def _milliseconds(seconds: list[float]) -> float:
    return round(float(np.median(seconds)) * 1e3, 2)
