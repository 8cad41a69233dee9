"""Rows of embeddings: their lengths, and their dot products a block at a time."""

import numpy as np

from s2r2.errors import S2R2Error


def unit_rows(embeddings: np.ndarray, what: str = "embeddings") -> np.ndarray:
    """Rows of length 1 as ``(N, D)`` float32.

    Raises:
        S2R2Error: A row is not finite, or has length 0 and so no direction.
    """
    rows = np.asarray(embeddings, np.float32)
    return rows * inverse_lengths(rows, what)[:, None]


def without_direction(rows: np.ndarray) -> np.ndarray:
    """Which rows ``(N,)`` have length 0: nothing is near to them or far from them."""
    return np.logical_not(np.any(rows, axis=1))


def inverse_lengths(rows: np.ndarray, what: str) -> np.ndarray:
    """One over each row's length, ``(N,)`` float32.

    Raises:
        S2R2Error: A row is not finite, or has length 0.
    """
    inverse = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), 65536):
        block = np.asarray(rows[start : start + 65536], np.float32)
        lengths = np.sqrt(np.einsum("nd,nd->n", block, block, dtype=np.float64))
        wrong = ~np.isfinite(lengths) | (lengths == 0)
        if wrong.any():
            at = start + int(np.argmax(wrong))
            reason = "has length 0" if lengths[at - start] == 0 else "is not finite"
            raise S2R2Error(f"row {at} of the {what} {reason}: the encoder is broken there, look at that image")
        inverse[start : start + len(block)] = 1 / lengths
    return inverse


def similarity_rows(queries: np.ndarray, gallery: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray:
    """Dot products ``(Q, M)`` float32, a gallery block at a time so that a memory map is never held whole.

    A single query is computed as two: BLAS then takes the matrix routine, in which equal gallery rows give equal
    products; its vector routine breaks such ties by rounding.
    """
    doubled = np.concatenate([queries, queries]) if len(queries) == 1 else queries
    count = len(gallery) if columns is None else len(columns)
    out = np.empty((len(doubled), count), np.float32)
    for start in range(0, count, 65536):
        if columns is None or len(columns) == len(gallery):
            block = gallery[start : start + 65536]
        else:
            block = gallery[columns[start : start + 65536]]
        stop = start + len(block)
        np.matmul(doubled, np.asarray(block, np.float32).T, out=out[:, start:stop])
    return out[: len(queries)]
