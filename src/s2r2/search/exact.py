"""Exact search: every similarity is computed, the largest are kept."""

import numpy as np


def top_k(
    vectors: np.ndarray, query: np.ndarray, k: int, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of ``vectors`` with the largest dot product.

    For rows and query of length 1 that is the cosine. One matrix-vector product over a mapped matrix takes about
    as long as reading it from memory.

    Args:
        vectors: ``(N, D)`` float32.
        query: ``(D,)`` float32.
        k: How many; fewer when fewer may be found.
        mask: ``(N,)`` bool: which rows may be found; None for all.

    Returns:
        Rows ``(k,)`` and similarities ``(k,)`` float32, largest first, ties by row.
    """
    rows = None if mask is None else np.flatnonzero(mask)
    if rows is not None and len(rows) * 4 < len(vectors):  # gathering few rows costs less than scoring all
        scores = vectors[rows] @ query
    else:
        scores = vectors @ query
        scores = scores if rows is None else scores[rows]
    best = _largest(scores, k)
    return best if rows is None else rows[best], scores[best]


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
