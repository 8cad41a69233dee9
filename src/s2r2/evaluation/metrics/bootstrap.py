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
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(values))
    means = [
        values[generator.integers(0, len(values), (min(block, draws - start), len(values)))].mean(1)
        for start in range(0, draws, block)
    ]
    return interval_of(values.mean(), np.concatenate(means), len(values), len(values))


def mean_average_precision_interval(
    scores: np.ndarray, targets: np.ndarray, *, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Mean over labels of the AP of ranking images by a label's score, images being resampled.

    Equal scores form one step of the precision-recall curve, as in scikit-learn. Labels that no image has are left
    out; ``count`` is the number of labels used. In a resample, labels that it lacks are left out likewise. The
    interval is centred on the figure: resamples alone overestimate the AP of rare labels.

    Args:
        scores: ``(N, C)``.
        targets: ``(N, C)`` bool.
        draws: Resamples.
        seed: Of the resamples.
    """
    used = np.flatnonzero(targets.any(0))
    if len(used) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    count = len(scores)
    generator = np.random.default_rng(seed)
    weights = np.empty((draws + 1, count), np.float32)
    weights[0] = 1  # the images as they are
    for draw in range(1, draws + 1):
        weights[draw] = np.bincount(generator.integers(0, count, count), minlength=count)
    total, labels = np.zeros(draws + 1), np.zeros(draws + 1)
    for label in used:
        precision = weighted_average_precision(scores[:, label], targets[:, label], weights)
        there = np.isfinite(precision)
        total[there] += precision[there]
        labels += there
    means = total / np.maximum(labels, 1)
    # A resample repeats images, which raises the AP of rare labels; the spread is right, its centre is not.
    centred = means[1:] + (means[0] - means[1:].mean())
    return interval_of(means[0], centred, len(used), count)


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


def interval_of(value: float, draws: np.ndarray, count: int, images: int) -> Interval:
    """The interval of a figure from those of resampled images, if there are enough of them."""
    low, high = np.quantile(draws, [0.025, 0.975]) if images >= LEAST_FOR_INTERVAL else (math.nan, math.nan)
    return Interval(float(value), float(low), float(high), count)
