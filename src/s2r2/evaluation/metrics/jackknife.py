"""The jackknife: what each image does to a figure, found by leaving it out, so that a figure's interval can be known.

Where images are ranked among themselves, each of them is a query and a candidate for all other queries. The values of
the queries are then not independent: resampling them as if they were gives intervals two to three times too narrow.
"""

import numpy as np


def pseudo_values(
    values: np.ndarray,
    changes: np.ndarray,
    squares: float = 0.0,
    lost: np.ndarray | None = None,
    units: np.ndarray | None = None,
) -> np.ndarray:
    """A value for each image whose mean is the figure, and whose spread over the root of N is its standard error.

    With t the mean over queries, t(-i) the same without image i as query and as candidate, and m the mean of all t(-i),
    image i has the value t + (N - 1)(m - t(-i)): Tukey 1958, *Bias and Confidence in Not-quite Large Samples*. The
    difference of two figures on the same images has the differences of their values.

    Variances found in this way are too large (Efron and Stein 1981, *The Jackknife Estimate of Variance*): what chance
    does to the pair of a query and a candidate is counted with both. Here the candidates' part is drawn in about its
    mean, so that its sum of squares loses that of the pairs: it then counts with the queries alone.

    Args:
        values: ``(N,)`` of each query; NaN for an image that is none.
        changes: ``(N,)`` what leaving the image out changes in the sum over all other queries.
        squares: Sum of the squares of those changes, query by query.
        lost: ``(N,)`` how many queries there would be fewer, beside its own; none by default.
        units: ``(N,)`` int64 numbers from 0 of what is left out together, such as the photo of a view, -1 for nothing;
            by default each image.

    Returns:
        ``(U,)`` for each unit; NaN without any query.
    """
    lost = np.zeros(len(values)) if lost is None else lost
    units = np.arange(len(values)) if units is None else units
    judged = np.isfinite(values)
    total, queries = float(values[judged].sum()), int(judged.sum())
    count = int(units.max(initial=-1)) + 1
    if not queries:
        return np.full(count, np.nan)
    there = units >= 0

    def summed(weights: np.ndarray) -> np.ndarray:
        return np.bincount(units[there], weights[there], count)

    left = queries - summed(judged.astype(float)) - summed(lost)
    sums = total - summed(np.where(judged, values, 0.0)) + _without_pairs(summed(changes), squares)
    figure = total / queries
    without = np.where(left > 0, sums / np.maximum(left, 1), figure)
    return np.asarray(figure + (count - 1) * (without.mean() - without))


def _without_pairs(changes: np.ndarray, squares: float) -> np.ndarray:
    away = changes - changes.mean()
    spread = float((away**2).sum())
    return np.asarray(changes.mean() + away * np.sqrt(max(0.0, 1 - squares / spread)) if spread > 0 else changes)
