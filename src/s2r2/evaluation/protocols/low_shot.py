"""Linear probes from few labels: some images of each class, or predefined folds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.evaluation.metrics.bootstrap import DRAWS, Interval, interval_of
from s2r2.evaluation.metrics.label_encoding import LabelsLike, number_labels
from s2r2.evaluation.protocols.linear_probe import STRENGTHS, fit_linear_probe

SHOTS = (1, 10, 100)
SUBSETS = 5
FEW = 5
"""With fewer images of each class there is nothing to choose a strength on: :data:`FEW_STRENGTH` is used."""
FEW_STRENGTH = 0.1


@dataclass(frozen=True)
class LowShot:
    """Accuracy of probes from several small training sets.

    Attributes:
        interval: Mean over sets; the interval resamples both sets and test images.
        accuracies: Accuracy from each set.
    """

    interval: Interval
    accuracies: list[float]


def low_shot(
    train: np.ndarray,
    train_labels: LabelsLike,
    test: np.ndarray,
    test_labels: LabelsLike,
    *,
    shots: int,
    unknown: int | None = None,
    subsets: int = SUBSETS,
    seed: int = 0,
    draws: int = DRAWS,
) -> LowShot:
    """Train probes on ``shots`` images of each class, several times, and judge them on the test images.

    Args:
        train: ``(M, D)`` features.
        train_labels: ``(M,)`` integers or texts; None, NaN and ``""`` are unknown.
        test: ``(N, D)``.
        test_labels: ``(N,)`` likewise; test images of unknown class are left out.
        shots: Images of each class.
        unknown: A number that means an unknown label, such as -1.
        subsets: How many training sets to draw.
        seed: Of the sets and resamples.
        draws: Bootstrap resamples.

    Raises:
        S2R2Error: A class has fewer than ``shots`` images.
    """
    _, (taught, asked) = number_labels(train_labels, test_labels, unknown=unknown)
    chosen = draw_shots(taught, shots, subsets, seed)
    strengths: Sequence[float] | float = STRENGTHS if shots >= FEW else FEW_STRENGTH
    return probe_subsets(train, taught, test, asked, chosen, unknown=-1, strengths=strengths, seed=seed, draws=draws)


def probe_subsets(
    train: np.ndarray,
    train_labels: LabelsLike,
    test: np.ndarray,
    test_labels: LabelsLike,
    subsets: Sequence[np.ndarray],
    *,
    unknown: int | None = None,
    strengths: Sequence[float] | float = STRENGTHS,
    seed: int = 0,
    draws: int = DRAWS,
) -> LowShot:
    """Train a probe on each of the given subsets of the training images, such as STL-10's ten predefined folds.

    Args:
        train: ``(M, D)`` features.
        train_labels: ``(M,)`` integers or texts.
        test: ``(N, D)``.
        test_labels: ``(N,)`` likewise; None, NaN and ``""`` are unknown.
        subsets: Indices of training images, one array a subset.
        unknown: A number that means an unknown label, such as -1.
        strengths: See :func:`~s2r2.evaluation.protocols.linear_probe.fit_linear_probe`.
        seed: Of splits and resamples.
        draws: Bootstrap resamples.
    """
    names, (taught, asked) = number_labels(train_labels, test_labels, unknown=unknown)
    judged = asked >= 0
    right = np.stack(
        [
            fit_linear_probe(train[chosen], taught[chosen], strengths=strengths, classes=len(names), seed=seed).predict(
                test[judged]
            )
            == asked[judged]
            for chosen in subsets
        ]
    )
    return LowShot(_two_way_interval(right, draws, seed), [float(a) for a in right.mean(1)])


def draw_shots(labels: np.ndarray, shots: int, subsets: int, seed: int) -> list[np.ndarray]:
    """Indices of ``shots`` images of each class number, -1 being none, for each of some subsets, sorted.

    Where no class has more images than that, every subset would be the same: there is one.

    Raises:
        S2R2Error: A class has fewer images.
    """
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if len(classes) == 0 or counts.min() < shots:
        fewest = int(counts.min()) if len(counts) else 0
        raise S2R2Error(f"low-shot with {shots} images of each class: the smallest class has {fewest}; use fewer")
    if counts.max() == shots:
        return [np.flatnonzero(labels >= 0)]
    generator = np.random.default_rng(seed)
    return [
        np.sort(np.concatenate([generator.choice(np.flatnonzero(labels == c), shots, replace=False) for c in classes]))
        for _ in range(subsets)
    ]


def _two_way_interval(right: np.ndarray, draws: int, seed: int) -> Interval:
    """Interval of the mean of ``(S, N)`` outcomes over resampled subsets and resampled images."""
    generator = np.random.default_rng(seed)
    subsets, images = right.shape
    means = np.empty(draws)
    for i in range(draws):
        by_image = right[generator.integers(0, subsets, subsets)].mean(0)
        means[i] = by_image[generator.integers(0, images, images)].mean()
    return interval_of(right.mean(), means, images, images)
