"""Linear probes from few labels: some images of each class, or predefined folds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2r2.errors import ArgumentError
from s2r2.evaluation.metrics.bootstrap import DRAWS, Interval
from s2r2.evaluation.metrics.label_encoding import LabelsLike, number_labels
from s2r2.evaluation.protocols.base import Caution, Need, Protocol, Space
from s2r2.evaluation.protocols.linear_probe import STRENGTHS, fit_linear_probe
from s2r2.evaluation.protocols.register import register_protocol
from s2r2.evaluation.result import Column, asked_for
from s2r2.evaluation.task import UNKNOWN, Outcome, Task

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
        right: ``(S, N)`` bool: which labeled test images the probe from each set gets right.
    """

    interval: Interval
    accuracies: list[float]
    right: np.ndarray


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
        train_labels: ``(M,)`` integers or strings; None, NaN and ``""`` are unknown.
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
    return probe_subsets(
        train, taught, test, asked, chosen, unknown=-1, strengths=_strengths(shots), seed=seed, draws=draws
    )


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
        train_labels: ``(M,)`` integers or strings.
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
    probes = (
        fit_linear_probe(train[chosen], taught[chosen], strengths=strengths, classes=len(names), seed=seed)
        for chosen in subsets
    )
    right = np.stack([probe.predict(test[judged]) == asked[judged] for probe in probes])
    return LowShot(Outcome(right).interval(draws=draws, seed=seed), [float(a) for a in right.mean(1)], right)


def draw_shots(labels: np.ndarray, shots: int, subsets: int, seed: int) -> list[np.ndarray]:
    """Indices of ``shots`` images of each class number, -1 being none, for each of some subsets, sorted.

    Where no class has more images than that, every subset would be the same: there is one.

    Raises:
        S2R2Error: A class has fewer images.
    """
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if len(classes) == 0 or counts.min() < shots:
        fewest = int(counts.min()) if len(counts) else 0
        raise ArgumentError(f"low-shot with {shots} images of each class: the smallest class has {fewest}; use fewer")
    if counts.max() == shots:
        return [np.flatnonzero(labels >= 0)]
    generator = np.random.default_rng(seed)
    return [
        np.sort(np.concatenate([generator.choice(np.flatnonzero(labels == c), shots, replace=False) for c in classes]))
        for _ in range(subsets)
    ]


@register_protocol
class LowShotProbes(Protocol):
    """Accuracy of linear classifiers from few images of each class, as far as the smallest class has them."""

    name = "low-shot"
    summary = "a linear classifier on 1, 10 and 100 images of each class, five draws"
    needs = (Need.LABELS, Need.TRAINING_LABELS, Need.SINGLE_LABELS)
    place = 50

    def columns(self, task: Task) -> dict[str, Column]:
        """A figure for each number of images."""
        text = "A linear classifier trained on only {} image{} of each class; the mean over {} draws of those images."
        return {
            f"low-shot@{n}": asked_for(f"{n}-shot", text.format(n, "s" * (n > 1), SUBSETS))
            for n in SHOTS
            if n <= _fewest(task)
        }

    def evaluate(self, space: Space, task: Task) -> dict[str, Outcome]:
        """Probes from several small training sets."""
        assert task.train is not None
        return {
            f"low-shot@{n}": _outcome(space, task, draw_shots(task.train, n, SUBSETS, task.seed), _strengths(n))
            for n in SHOTS
            if n <= _fewest(task)
        }

    def cautions(self, task: Task) -> list[Caution]:
        """Numbers of images that were left out."""
        left = [str(n) for n in SHOTS if n > _fewest(task)]
        text = f"Low-shot with {' and '.join(left)} images of each class is left out: the smallest has {_fewest(task)}."
        return [Caution(text)] if left else []


@register_protocol
class Folds(Protocol):
    """Accuracy of linear classifiers from each of the data set's own training folds."""

    name = "folds"
    summary = "a linear classifier on each of the data set's own folds (STL-10 has ten)"
    needs = (Need.LABELS, Need.TRAINING_LABELS, Need.SINGLE_LABELS, Need.FOLDS)
    place = 60

    def columns(self, task: Task) -> dict[str, Column]:
        """One figure."""
        text = "A linear classifier trained on each of the data set's predefined training folds; the mean over them."
        return {"folds": asked_for("folds", text)}

    def evaluate(self, space: Space, task: Task) -> dict[str, Outcome]:
        """A probe from each fold."""
        return {"folds": _outcome(space, task, task.folds, STRENGTHS)}


def _outcome(space: Space, task: Task, subsets: Sequence[np.ndarray], strengths: Sequence[float] | float) -> Outcome:
    assert task.train is not None
    assert space.train is not None
    found = probe_subsets(
        space.train,
        task.train,
        space.test,
        task.test,
        subsets,
        unknown=UNKNOWN,
        strengths=strengths,
        seed=task.seed,
        draws=1,  # the outcome is resampled by whoever asks
    )
    return Outcome(found.right, details=found.accuracies)


def _strengths(shots: int) -> Sequence[float] | float:
    return STRENGTHS if shots >= FEW else FEW_STRENGTH


def _fewest(task: Task) -> int:
    """Labelled training images of the smallest class."""
    assert task.train is not None
    return int(np.unique(task.train[task.train_labeled], return_counts=True)[1].min())
