"""Exact search: every similarity is computed, the largest are kept."""

import numpy as np

from s2r2.search.similarity_kernel import score_all, score_some


def top_k(
    vectors: np.ndarray, query: np.ndarray, k: int, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of ``vectors`` with the largest dot product.

    For rows and query of length 1 that is the cosine. One pass over a mapped matrix takes about as long as reading
    it from memory.

    Args:
        vectors: ``(N, D)`` float32.
        query: ``(D,)`` float32.
        k: How many; fewer when fewer may be found.
        mask: ``(N,)`` bool: which rows may be found; None for all.

    Returns:
        Rows ``(k,)`` and similarities ``(k,)`` float32, largest first, ties by row.
    """
    vectors, query = np.asarray(vectors), np.ascontiguousarray(query, np.float32)
    if mask is None:
        scores = score_all(vectors, query)
        best = _largest(scores, k)
        return best, scores[best]
    rows = np.flatnonzero(mask)
    scores = score_some(vectors, rows, query)
    best = _largest(scores, k)
    return rows[best], scores[best]


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k largest scores, largest first, ties by position (also at the k-th)."""
    if k >= len(scores):
        best = np.arange(len(scores))
    elif k < 1:
        return np.empty(0, np.int64)
    else:
        limit = np.partition(scores, len(scores) - k)[len(scores) - k]
        best = np.flatnonzero(scores >= limit)
    return best[np.argsort(-scores[best], kind="stable")][:k]
