"""The VOC07 protocol: one-vs-rest linear support vector machines on fixed features."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.evaluation.metrics.bootstrap import (
    DRAWS,
    Interval,
    mean_average_precision_interval,
    weighted_average_precision,
)
from s2r2.evaluation.metrics.vectors import unit_rows
from s2r2.evaluation.protocols.base import Caution, Protocol, Space
from s2r2.evaluation.protocols.register import register_protocol
from s2r2.evaluation.result import Column, asked_for
from s2r2.evaluation.task import Outcome, Task

COSTS = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)
FOLDS = 3


@dataclass(frozen=True)
class Voc07:
    """Result of the protocol.

    Attributes:
        interval: mAP over labels on the test images, in 0..1, with its bootstrap interval.
        average_precision: ``(C,)`` AP of each label; NaN for one that no test image has.
        costs: ``(C,)`` the cost chosen for each label; NaN for one that was not trained.
    """

    interval: Interval
    average_precision: np.ndarray
    costs: np.ndarray


def voc07_svm(
    train: np.ndarray,
    train_targets: np.ndarray,
    test: np.ndarray,
    test_targets: np.ndarray,
    *,
    costs: Sequence[float] = COSTS,
    seed: int = 0,
    draws: int = DRAWS,
) -> Voc07:
    """Train an SVM for each label on L2-normalised features, its cost chosen by three-fold AP on the training images.

    Squared hinge loss, L2 penalty, positives weighted 2 to 1, at most 2,000 iterations: the protocol of Goyal et al.
    2019, *Scaling and Benchmarking Self-Supervised Visual Representation Learning*, section 6.1, with the grid of costs
    that its published code uses. AP is computed as in scikit-learn. A label with fewer than three positive (or
    negative) training images is not trained: its score is the same for every image.

    Args:
        train: ``(M, D)`` features (VOC 2007: trainval).
        train_targets: ``(M, C)`` bool.
        test: ``(N, D)``.
        test_targets: ``(N, C)`` bool.
        costs: Grid of C.
        seed: Of the folds, the solver and the resamples.
        draws: Bootstrap resamples.

    Raises:
        S2R2Error: The label columns of the two sets differ, or no label can be trained.
    """
    if train_targets.ndim != 2 or train_targets.shape[1:] != test_targets.shape[1:]:
        raise ArgumentError(
            f"VOC07 SVM needs the same label columns for both sets, not {train_targets.shape} and {test_targets.shape}"
        )
    scores, chosen = _scores(train, train_targets, test, costs, seed)
    if np.isnan(chosen).all():
        raise S2R2Error("VOC07 SVM: no label has three positive and three negative training images")
    interval = mean_average_precision_interval(scores, test_targets, draws=draws, seed=seed)
    return Voc07(interval, _average_precision(scores, test_targets), chosen)


def _scores(
    train: np.ndarray, train_targets: np.ndarray, test: np.ndarray, costs: Sequence[float], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores ``(N, C)`` of the test images, and the costs ``(C,)`` that were chosen."""
    train, test = unit_rows(train), unit_rows(test)
    scores = np.zeros((len(test), train_targets.shape[1]), np.float32)
    chosen = np.full(train_targets.shape[1], np.nan)
    for label in np.flatnonzero(trainable(train_targets)):
        wanted = train_targets[:, label].astype(bool)
        chosen[label] = _best_cost(train, wanted, costs, seed) if len(costs) > 1 else costs[0]
        scores[:, label] = _fit(train, wanted, chosen[label], seed).decision_function(test)
    return scores, chosen


def _average_precision(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """AP of each label; NaN for one that no image has."""
    ones = np.ones((1, len(scores)), np.float32)
    columns = zip(scores.T, targets.T, strict=True)
    return np.array([weighted_average_precision(s, t, ones)[0] if t.any() else np.nan for s, t in columns])


def trainable(targets: np.ndarray) -> np.ndarray:
    """``(C,)`` bool: labels with at least three positive and three negative images, one for each fold."""
    positive = targets.astype(bool).sum(0)
    return np.asarray(np.minimum(positive, len(targets) - positive) >= FOLDS)


def _best_cost(train: np.ndarray, wanted: np.ndarray, costs: Sequence[float], seed: int) -> float:
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import StratifiedKFold

    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(train, wanted))
    means = [
        np.mean(
            [
                average_precision_score(
                    wanted[held], _fit(train[rest], wanted[rest], cost, seed).decision_function(train[held])
                )
                for rest, held in folds
            ]
        )
        for cost in costs
    ]
    return float(costs[int(np.argmax(means))])


def _fit(train: np.ndarray, wanted: np.ndarray, cost: float, seed: int):  # type: ignore[no-untyped-def]
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    machine = LinearSVC(
        C=cost, loss="squared_hinge", penalty="l2", dual=True, tol=1e-4, max_iter=2000,
        class_weight={True: 2, False: 1}, random_state=seed,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 2,000 iterations are part of the protocol
        return machine.fit(train, wanted)


@register_protocol
class Voc07Svm(Protocol):
    """Mean AP over labels of linear support vector machines, one for each label."""

    name = "svm"
    summary = "VOC07: a linear SVM for each label, its cost chosen by cross-validation, mean AP"
    place = 70

    def columns(self, task: Task) -> dict[str, Column]:
        """One figure."""
        text = (
            "VOC07 protocol: a linear support vector machine for each label on the fixed features; mean AP over labels."
        )
        return {"svm": asked_for("SVM", text)}

    def applies_to(self, space: Space) -> bool:
        """Not to pixels: that takes hours of solver time for a baseline that nobody reads."""
        return not space.is_pixels

    def evaluate(self, space: Space, task: Task) -> dict[str, Outcome]:
        """Train them on the labeled training images."""
        (rows, labels), (test_rows, test_labels) = space.training(task), space.testing(task)
        targets, wanted = task.bits(labels), task.bits(test_labels)
        if not trainable(targets).any():
            return {"svm": Outcome(np.full(len(wanted), np.nan))}
        scores, costs = _scores(rows, targets, test_rows, COSTS, task.seed)
        details = {
            name: {"average_precision": float(ap), "cost": float(cost)}
            for name, ap, cost in zip(task.names, _average_precision(scores, wanted), costs, strict=True)
        }
        return {"svm": Outcome(scores, wanted, details)}

    def cautions(self, task: Task) -> list[Caution]:
        """Labels with too few images."""
        assert task.train is not None
        good = trainable(task.bits(task.train[task.train_labeled]))
        if good.all():
            return []
        text = (
            f"SVM: {(~good).sum()} of {len(good)} labels have fewer than {FOLDS} training images with or without them, "
            "so they were not trained, and their AP is chance"
        )
        return [Caution(text + ("." if good.any() else " (n/a)."), () if good.any() else ("svm",))]
