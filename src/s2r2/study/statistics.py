"""Differences between methods with intervals that cover other training runs and other test images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from s2r2.evaluation.metrics.bootstrap import weighted_average_precision

DRAWS = 300


@dataclass(frozen=True)
class Estimate:
    """A figure, or a difference of two, with its 95 % interval.

    Attributes:
        value: The mean over seeds.
        half_width: Of the interval; infinite with a single seed.
        seeds: How many.
        images: Half-width of the part that comes from the test images.
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


def figure(runs: Sequence[np.ndarray], targets: np.ndarray) -> Estimate:
    """A method's figure over its seeds.

    Args:
        runs: For each seed what :func:`s2r2.study.scoring.judge_task` gave: ``(N,)`` or ``(N, C)``.
        targets: ``(N,)`` or ``(N, C)`` labels of the judged images.
    """
    return _estimate([_per_draw(run, targets) for run in runs])


def difference(first: Sequence[np.ndarray], second: Sequence[np.ndarray], targets: np.ndarray) -> Estimate:
    """First less second, paired by seed (same views, same first weights) and by test image.

    The half-width joins two independent parts: Student's t over the seeds' differences, and 1.96 standard errors from
    resampling test images, which all seeds share. With few seeds the first part is honest about how little is known.
    """
    return _estimate([_per_draw(a, targets) - _per_draw(b, targets) for a, b in zip(first, second, strict=True)])


def _per_draw(run: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The figure on the images as they are, then on ``DRAWS`` resamples, the same for every run: ``(1 + DRAWS,)``."""
    weights = _weights(len(run))
    if run.ndim == 1:
        values = np.nan_to_num(run.astype(np.float64))
        there = np.isfinite(run).astype(np.float64)
        return (weights @ values) / np.maximum(weights @ there, 1e-12)
    total, labels = np.zeros(len(weights)), np.zeros(len(weights))
    for label in np.flatnonzero(targets.any(0)):
        precision = weighted_average_precision(run[:, label], targets[:, label], weights)
        there = np.isfinite(precision)
        total[there] += precision[there]
        labels += there
    return total / np.maximum(labels, 1)


def _weights(images: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    weights = np.ones((DRAWS + 1, images))
    for row in weights[1:]:
        row[:] = np.bincount(generator.integers(0, images, images), minlength=images)
    return weights


def _estimate(seeds: list[np.ndarray]) -> Estimate:
    table = np.stack(seeds)  # (S, 1 + DRAWS)
    count = len(table)
    by_images = 1.96 * float(table[:, 1:].mean(0).std(ddof=1))
    if count == 1:
        return Estimate(float(table[0, 0]), math.inf, 1, by_images)
    by_seeds = float(student.ppf(0.975, count - 1)) * float(table[:, 0].std(ddof=1)) / math.sqrt(count)
    return Estimate(float(table[:, 0].mean()), math.hypot(by_seeds, by_images), count, by_images)
