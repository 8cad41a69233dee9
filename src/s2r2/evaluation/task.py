"""What is asked of encoders: labels of training and test images under one numbering, and how figures are made."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from s2r2.evaluation.metrics.bootstrap import DRAWS, Interval, interval_of, resampled
from s2r2.evaluation.metrics.label_encoding import common_columns
from s2r2.images import Labels, PixelStore

KS = (1, 5, 10)
UNKNOWN = -1


@dataclass(frozen=True)
class Task:
    """Labels of training and test images under one numbering, and how to make figures of them.

    Attributes:
        names: The label names; none where test images have no labels.
        train: ``(M,)`` int64 with -1 for unknown, or ``(M, C)`` bool; None without training labels.
        test: The same for the test images.
        ks: Cut-offs of Recall@k.
        draws: Bootstrap resamples.
        seed: Of resamples and splits.
        folds: Predefined subsets of the training images, as indices.
        grades: Names of the levels at which test images belong together, the closest first.
        groups: ``(N, L)`` int64 group of each test image at each of them; None without grades.
    """

    names: list[str]
    train: np.ndarray | None
    test: np.ndarray
    ks: tuple[int, ...] = KS
    draws: int = DRAWS
    seed: int = 0
    folds: Sequence[np.ndarray] = ()
    grades: tuple[str, ...] = ()
    groups: np.ndarray | None = None

    @property
    def labeled(self) -> bool:
        """Whether test images have labels."""
        return bool(self.names)

    @property
    def several(self) -> bool:
        """Whether images have several labels."""
        return self.test.ndim == 2

    @property
    def test_labeled(self) -> np.ndarray:
        """``(N,)`` bool: test images with a label."""
        return np.asarray(self.test.any(1) if self.several else self.test >= 0)

    @property
    def train_labeled(self) -> np.ndarray:
        """``(M,)`` bool: training images with a label."""
        if self.train is None:
            return np.zeros(0, bool)
        return np.asarray(self.train.any(1) if self.several else self.train >= 0)

    @property
    def has_train_labels(self) -> bool:
        """Whether there are labeled training images."""
        return bool(self.train_labeled.any())

    def bits(self, labels: np.ndarray) -> np.ndarray:
        """Some of the labels as ``(N, C)`` bool."""
        return labels if labels.ndim == 2 else labels[:, None] == np.arange(len(self.names))

    def outcome(self, scores: np.ndarray, details: Any = None) -> "Outcome":
        """Accuracy, or mean AP where images have several labels, of scores ``(N, C)`` of the judged test images."""
        wanted = self.test[self.test_labeled]
        if self.several:
            return Outcome(np.asarray(scores, np.float32), wanted, details)
        return Outcome(scores.argmax(1) == wanted, None, details)


@dataclass(frozen=True)
class Outcome:
    """A figure image by image, so that it can be resampled, and two encoders compared in pairs.

    Attributes:
        values: ``(N,)`` a value for each image, NaN for one that does not count; ``(S, N)`` from each of S training
            sets; or with ``targets`` ``(N, C)`` scores of labels.
        targets: ``(N, C)`` bool: labels of the images; the figure is then mean AP over labels.
        details: Plain data for the record, such as a strength that was chosen.
        pseudo_values: ``(N,)`` what is resampled in place of ``values`` where an image bears on the values of others as
            well, see :func:`~s2r2.evaluation.metrics.jackknife.pseudo_values`.
    """

    values: np.ndarray
    targets: np.ndarray | None = field(default=None)
    details: Any = None
    pseudo_values: np.ndarray | None = None

    @property
    def resampled_values(self) -> np.ndarray:
        """What is resampled: ``pseudo_values`` where there are some."""
        return self.values if self.pseudo_values is None else self.pseudo_values

    def interval(self, *, draws: int = DRAWS, seed: int = 0) -> Interval:
        """The figure with its bootstrap interval over test images."""
        figures = resampled(self.resampled_values, self.targets, draws=draws, seed=seed)
        if self.targets is not None:
            return interval_of(figures, int(self.targets.any(0).sum()), len(self.values))
        count = int(np.isfinite(self.values).sum()) if self.values.ndim == 1 else self.values.shape[1]
        return interval_of(figures, count, count)


def build_task(
    train: PixelStore | None, test: PixelStore, *, ks: Sequence[int] = KS, draws: int = DRAWS, seed: int = 0
) -> Task:
    """The task that the labels of two stores pose."""
    folds = train.folds if train is not None else ()
    if test.labels is None:
        return Task([], None, np.full(len(test), UNKNOWN), tuple(ks), draws, seed, folds)
    teaching = train.labels if train is not None else None
    first, second = (None, test.labels) if teaching is None else common_columns(teaching, test.labels)
    single = second.single is not None and (first is None or first.single is not None)
    labels = None if first is None else _plain(first, single)
    return Task(second.names, labels, _plain(second, single), tuple(ks), draws, seed, folds)


def _plain(labels: Labels, single: bool) -> np.ndarray:
    numbers = labels.single
    return numbers if single and numbers is not None else labels.targets
