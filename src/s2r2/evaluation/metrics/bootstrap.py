"""Figures that say how sure they are: 95 % intervals by resampling the test images."""

import math
from dataclasses import dataclass

import numpy as np

DRAWS = 1000
LEAST_FOR_INTERVAL = 3
"""From fewer images there is no interval: resampling one always gives the same."""
_BLOCK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval.

    Attributes:
        value: The figure.
        low: 2.5 % quantile over resampled test images; NaN for fewer than three images, as is ``high``.
        high: 97.5 % quantile.
        count: What it is a mean over: test images, queries or labels.
    """

    value: float
    low: float
    high: float
    count: int = 0

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def half_width(self) -> float:
        """Half of the interval's length; NaN without one."""
        return (self.high - self.low) / 2

    def to_list(self) -> list[float | int | None]:
        """``[value, low, high, count]`` for JSON; None for what is not a number."""
        numbers = [round(v, 6) if math.isfinite(v) else None for v in (self.value, self.low, self.high)]
        return [*numbers, self.count]

    @classmethod
    def from_list(cls, values: list[float | int | None]) -> "Interval":
        """What :meth:`to_list` gave."""
        numbers = [math.nan if v is None else float(v) for v in values[:3]]
        return cls(numbers[0], numbers[1], numbers[2], int(values[3] or 0))


def bootstrap_interval(values: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Mean of ``(N,)`` values and its percentile bootstrap interval (Efron 1979); NaN values are left out.

    The interval tells what other test images of the same kind could have given. It does not tell what another
    training run could have given: for that, train with several seeds.
    """
    count = int(np.isfinite(values).sum())
    return interval_of(resampled(values, draws=draws, seed=seed), count, count)


def mean_average_precision_interval(
    scores: np.ndarray, targets: np.ndarray, *, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Mean over labels of the AP of ranking images by a label's score, images being resampled.

    Equal scores form one step of the precision-recall curve, as in scikit-learn. Labels that no image has are left
    out; ``count`` is the number of labels used. In a resample, labels that it lacks are left out likewise. The
    interval is centered on the figure: resamples alone overestimate the AP of rare labels.

    Args:
        scores: ``(N, C)``.
        targets: ``(N, C)`` bool.
        draws: Resamples.
        seed: Of the resamples.
    """
    return interval_of(resampled(scores, targets, draws=draws, seed=seed), int(targets.any(0).sum()), len(scores))


def resampled(
    values: np.ndarray, targets: np.ndarray | None = None, *, draws: int = DRAWS, seed: int = 0
) -> np.ndarray:
    """A figure, then what it would be on resampled test images: ``(1 + draws,)``.

    The resamples follow from the seed and the number of images alone, so that figures of two encoders on the same
    images can be compared draw by draw.

    Args:
        values: ``(N,)`` a value for each image, of which the mean is taken, NaN being left out. ``(S, N)`` the same
            from each of S training sets, which are resampled as well. With ``targets`` ``(N, C)`` scores of labels,
            of which the mean average precision is taken.
        targets: ``(N, C)`` bool: the labels that images have.
        draws: Resamples.
        seed: Of the resamples.
    """
    generator = np.random.default_rng(seed)
    if targets is not None:
        return _resampled_average_precision(values, targets, draws, generator)
    if values.ndim == 2:
        return _resampled_over_sets(values, draws, generator)
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return np.full(1 + draws, np.nan)
    block = max(1, _BLOCK // len(values))
    means = [
        values[generator.integers(0, len(values), (min(block, draws - start), len(values)))].mean(1)
        for start in range(0, draws, block)
    ]
    return np.concatenate([[values.mean()], *means])


def _resampled_over_sets(values: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    sets, images = values.shape
    means = [values.mean()]
    for _ in range(draws):
        by_image = values[generator.integers(0, sets, sets)].mean(0)
        means.append(by_image[generator.integers(0, images, images)].mean())
    return np.array(means)


def _resampled_average_precision(
    scores: np.ndarray, targets: np.ndarray, draws: int, generator: np.random.Generator
) -> np.ndarray:
    used, count = np.flatnonzero(targets.any(0)), len(scores)
    if len(used) == 0:
        return np.full(1 + draws, np.nan)
    weights = np.ones((draws + 1, count), np.float32)
    for row in weights[1:]:
        row[:] = np.bincount(generator.integers(0, count, count), minlength=count)
    total, labels = np.zeros(draws + 1), np.zeros(draws + 1)
    for label in used:
        precision = weighted_average_precision(scores[:, label], targets[:, label], weights)
        there = np.isfinite(precision)
        total[there] += precision[there]
        labels += there
    means = total / np.maximum(labels, 1)
    # A resample repeats images, which raises the AP of rare labels; the spread is right, its center is not.
    if draws:
        means[1:] += means[0] - means[1:].mean()
    return means


def weighted_average_precision(scores: np.ndarray, relevant: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AP of one ranking under each row of image weights ``(W, N)``; NaN where nothing relevant has weight."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # the last image of each equal score
    out = np.empty(len(weights))
    block = max(1, _BLOCK // len(scores))
    for start in range(0, len(weights), block):
        part = weights[start : start + block][:, order].astype(np.float64)
        found = np.cumsum(part * relevant[order], axis=1)[:, last]
        seen = np.cumsum(part, axis=1)[:, last]
        steps = np.diff(found, axis=1, prepend=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(seen > 0, found / seen, 0)
            out[start : start + block] = (precision * steps).sum(1) / found[:, -1]
    return out


def interval_of(figures: np.ndarray, count: int, images: int) -> Interval:
    """The interval of a figure from what :func:`resampled` gave, if there are enough images for one."""
    low, high = np.quantile(figures[1:], [0.025, 0.975]) if images >= LEAST_FOR_INTERVAL else (math.nan, math.nan)
    return Interval(float(figures[0]), float(low), float(high), count)
