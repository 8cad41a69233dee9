"""Means that say how sure they are."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_list(self) -> list[float]:
        """``[value, low, high]`` for JSON."""
        return [self.value, self.low, self.high]


def bootstrap_interval(values: np.ndarray, *, draws: int = 1000, seed: int = 0) -> Interval:
    """Mean of ``(N,)`` values, NaN left out, with its bootstrap percentile interval of 95 % (Efron 1979)."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    for i in range(draws):
        means[i] = values[generator.integers(0, len(values), len(values))].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))
