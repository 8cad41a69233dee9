"""Compiled: the dot product of one vector with many, read once from memory.

NumPy hands this to BLAS, whose matrix-vector product leaves half of the memory's speed unused on some processors.
Summing in another order is allowed (that is what makes it fast), but every row is summed in the same order, so equal
rows have equal scores wherever they stand.
"""

import numpy as np

from s2r2.system.jit import njit


@njit(nogil=True, fastmath={"reassoc", "contract"})
def score_all(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Dot products of all rows ``(N, D)`` with ``(D,)``: ``(N,)``."""
    scores = np.empty(vectors.shape[0], np.float32)
    for row in range(vectors.shape[0]):
        total = np.float32(0)
        for column in range(vectors.shape[1]):
            total += vectors[row, column] * query[column]
        scores[row] = total
    return scores


@njit(nogil=True, fastmath={"reassoc", "contract"})
def score_some(vectors: np.ndarray, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Dot products of the given rows ``(M,)`` of ``(N, D)`` with ``(D,)``: ``(M,)``."""
    scores = np.empty(len(rows), np.float32)
    for place in range(len(rows)):
        row = rows[place]
        total = np.float32(0)
        for column in range(vectors.shape[1]):
            total += vectors[row, column] * query[column]
        scores[place] = total
    return scores
