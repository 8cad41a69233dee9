"""Queries of several photos: more like these, less like those.

The similarity of a photo and such a query is a soft maximum of its cosines with the photos to be like, minus a quarter
of that of its cosines with those to be less like::

    similarity = soft(cosines with more) - 0.25 * soft(cosines with less)
    soft(c) = log(mean(exp(20 * c))) / 20

So a photo ranks high that is like one of them, and higher if it is like several. For one photo alone it is the cosine.
``benchmarks/several_photos.py`` compares it with the mean vector (Rocchio) and with the plain maximum.
"""

from collections.abc import Sequence

import numpy as np

from s2r2.errors import ArgumentError
from s2r2.search.backends.exact import in_threads, largest

SHARPNESS = 20.0
"""Of the soft maximum: 0 would be the mean, infinity the maximum."""
LESS_WEIGHT = 0.25
MOST_PHOTOS = 32
"""In one query."""
_PIECE = 1 << 16


def check_count(more: int, less: int) -> None:
    """Refuse a query without photos to be like, or with too many.

    Raises:
        ArgumentError: It is one.
    """
    if more < 1:
        raise ArgumentError("a query needs at least one photo to be like: add one to `image`")
    if more + less > MOST_PHOTOS:
        raise ArgumentError(
            f"a query of {more + less} photos: give at most {MOST_PHOTOS}, in `image` and `less` together"
        )


def similarities(more: np.ndarray, less: np.ndarray) -> np.ndarray:
    """Similarity of N photos and a query, from their cosines ``(N, m)`` and ``(N, l)``; ``l`` may be 0."""
    liked = soft_maximum(more)
    return liked - LESS_WEIGHT * soft_maximum(less) if less.shape[1] else liked


def soft_maximum(cosines: np.ndarray) -> np.ndarray:
    """Of each row of ``(N, m)``: ``(N,)``, from its mean to its maximum."""
    largest = cosines.max(axis=1)
    mean = np.exp(SHARPNESS * (cosines - largest[:, None])).mean(axis=1)
    result: np.ndarray = largest + np.log(mean) / SHARPNESS
    return result


def most_similar(
    vectors: np.ndarray,
    more: Sequence[np.ndarray],
    less: Sequence[np.ndarray],
    k: int,
    rows: np.ndarray | None = None,
    leave_out: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """The photos that are most similar to several; the vectors are read once.

    Args:
        vectors: ``(N, D)`` with rows of length 1.
        more: Vectors ``(D,)`` of length 1 to be like; at least one.
        less: Vectors to be less like.
        k: How many; fewer when there are fewer.
        rows: Rows that may be found, in ascending order; None for all.
        leave_out: Rows that may not be found.

    Returns:
        Rows ``(k,)`` and similarities ``(k,)``, largest first, ties by row.
    """
    queries = np.stack([*more, *less]).astype(np.float32).T

    def score(part: slice) -> np.ndarray:
        found = np.empty(part.stop - part.start, np.float32)
        for start in range(part.start, part.stop, _PIECE):
            piece = slice(start, min(start + _PIECE, part.stop))
            cosines = vectors[piece if rows is None else rows[piece]] @ queries  # all rows are not copied
            found[piece.start - part.start : piece.stop - part.start] = similarities(
                cosines[:, : len(more)], cosines[:, len(more) :]
            )
        return found

    scores = in_threads(score, len(vectors) if rows is None else len(rows))
    candidates = np.arange(len(scores)) if rows is None else rows
    kept = np.flatnonzero(~np.isin(candidates, np.asarray(leave_out, np.int64)))
    best = kept[largest(scores[kept], k)]
    return candidates[best], scores[best]
