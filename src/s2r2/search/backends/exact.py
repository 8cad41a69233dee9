"""Exact search: every similarity is computed, the largest are kept."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from s2r2.search.backends.base import SearchBackend, register_backend

_ROWS_A_THREAD = 25_000  # fewer take less than a few milliseconds, which more threads would hardly shorten


@register_backend
class ExactSearch(SearchBackend):
    """Exact search; it needs nothing but the vectors."""

    name = "exact"
    automatic_from = 0

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest of all vectors."""
        return top_k(self.vectors, query, k)


def top_k(
    vectors: np.ndarray, query: np.ndarray, k: int, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of ``vectors`` with the largest dot product.

    For rows and query of length 1 that is the cosine. One pass over a mapped matrix takes about as long as reading
    it from memory.

    Args:
        vectors: ``(N, D)`` float32.
        query: ``(D,)`` float32.
        k: How many; fewer when fewer may be found.
        rows: Rows that may be found, in ascending order; None for all.

    Returns:
        Rows ``(k,)`` and similarities ``(k,)`` float32, largest first, ties by row.
    """
    from s2r2.search.similarity_kernel import score_all, score_some

    vectors, query = np.asarray(vectors), np.ascontiguousarray(query, np.float32)
    if rows is None:
        scores = in_threads(lambda part: score_all(vectors[part], query), len(vectors))
        best = largest(scores, k)
        return best, scores[best]
    scores = in_threads(lambda part: score_some(vectors, rows[part], query), len(rows))
    best = largest(scores, k)
    return rows[best], scores[best]


def in_threads(work: Callable[[slice], np.ndarray], count: int) -> np.ndarray:
    """Results of ``work`` on ranges that make up ``count``, joined; threads as NUMBA_NUM_THREADS allows."""
    import numba  # takes a second, which opening an index need not wait for

    threads = min(numba.get_num_threads(), count // _ROWS_A_THREAD)
    if threads < 2:
        return work(slice(0, count))
    bounds = np.linspace(0, count, threads + 1).astype(int)
    with ThreadPoolExecutor(threads, thread_name_prefix="s2r2-search") as pool:
        return np.concatenate(list(pool.map(work, map(slice, bounds[:-1], bounds[1:]))))


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k largest scores, largest first, ties by position (also at the k-th)."""
    if k >= len(scores):
        best = np.arange(len(scores))
    elif k < 1:
        return np.empty(0, np.int64)
    else:
        limit = np.partition(scores, len(scores) - k)[len(scores) - k]
        best = np.flatnonzero(scores >= limit)
    return best[np.argsort(-scores[best], kind="stable")][:k]
