"""Differences between methods with intervals that cover other training runs and other test images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t as student

from s2r2.evaluation.metrics.bootstrap import DRAWS, resampled

LEVEL = 0.05


@dataclass(frozen=True)
class Estimate:
    """A figure, or a difference of two, with its 95 % interval.

    Attributes:
        value: The mean over seeds; NaN where the figure means nothing.
        half_width: Of the interval; infinite with a single seed.
        seeds: How many.
        images: Half-width of the part that comes from the test images; of a single run the one that
            ``s2r2 evaluate`` gives it.
    """

    value: float
    half_width: float
    seeds: int
    images: float

    @property
    def low(self) -> float:
        """Lower end."""
        return self.value - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.value + self.half_width

    @property
    def p_value(self) -> float:
        """The level whose interval would end at zero; NaN with a single seed, or where the figure means nothing."""
        if not math.isfinite(self.value) or not math.isfinite(self.half_width):
            return math.nan
        by_seeds = math.sqrt(max(0.0, self.half_width**2 - self.images**2)) / student.ppf(0.975, self.seeds - 1)
        by_images = self.images / norm.ppf(0.975)
        low, high = 0.0, 1.0  # the interval is the narrower, the larger the level
        for _ in range(60):
            level = (low + high) / 2
            half = math.hypot(by_seeds * student.isf(level / 2, self.seeds - 1), by_images * norm.isf(level / 2))
            low, high = (low, level) if half < abs(self.value) else (level, high)
        return high


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which of several differences are no chance, where any mistake among all of them is to be as rare as ``level``.

    The k-th smallest of m p-values is compared with level / (m - k + 1), until one is larger. NaN is no comparison.
    Source: Holm 1979, *A Simple Sequentially Rejective Multiple Test Procedure*.
    """
    order = sorted((i for i, p in enumerate(p_values) if math.isfinite(p)), key=lambda i: p_values[i])
    out = [False] * len(p_values)
    for place, i in enumerate(order):
        if p_values[i] > level / (len(order) - place):
            break
        out[i] = True
    return out


def figure(runs: Sequence[np.ndarray], targets: np.ndarray) -> Estimate:
    """A method's figure over its seeds.

    Args:
        runs: For each seed what :func:`s2r2.study.tasks.evaluate_task` gave: ``(N,)`` values or pseudo-values,
            ``(S, N)`` or ``(N, C)``.
        targets: ``(N,)`` labels of the images evaluated on, or ``(N, C)`` those that scores are for.
    """
    return estimate([resampled_run(run, targets) for run in runs])


def difference(first: Sequence[np.ndarray], second: Sequence[np.ndarray], targets: np.ndarray) -> Estimate:
    """First minus second, paired by seed (same views, same first weights) and by test image.

    The half-width joins two independent parts: Student's t over the seeds' differences, and half of the 95 % interval
    from resampling test images, which all seeds and both methods share, as queries and as gallery. With few seeds the
    first part is honest about how little is known.
    """
    pairs = zip(first, second, strict=True)
    return estimate([resampled_run(a, targets) - resampled_run(b, targets) for a, b in pairs])


def resampled_run(run: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The figure on the images as they are, then on resamples, the same for every run: ``(1 + draws,)``."""
    return _resampled(run, targets, DRAWS)


def value_of(run: np.ndarray, targets: np.ndarray) -> float:
    """The figure of a run, without an interval."""
    return float(_resampled(run, targets, 0)[0])


def _resampled(run: np.ndarray, targets: np.ndarray, draws: int) -> np.ndarray:
    return resampled(run, targets if targets.ndim == 2 and run.shape == targets.shape else None, draws=draws)


def estimate(seeds: Sequence[np.ndarray]) -> Estimate:
    """A figure, or a difference, from what :func:`resampled_run` gave for each seed."""
    table = np.stack(seeds)  # (S, 1 + draws)
    count = len(table)
    low, high = np.quantile(table[:, 1:].mean(0), [0.025, 0.975])
    by_images = float(high - low) / 2
    if count == 1:
        return Estimate(float(table[0, 0]), math.inf, 1, by_images)
    by_seeds = float(student.ppf(0.975, count - 1)) * float(table[:, 0].std(ddof=1)) / math.sqrt(count)
    return Estimate(float(table[:, 0].mean()), math.hypot(by_seeds, by_images), count, by_images)
