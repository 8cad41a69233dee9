"""Nearest neighbors, and classification by their votes."""

from collections.abc import Sequence

import numpy as np

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.evaluation.metrics.label_encoding import LabelsLike, number_labels
from s2r2.evaluation.metrics.vectors import similarity_rows, unit_rows

DEFAULT_NEIGHBORS = (20, 200)
TEMPERATURE = 0.07
_MEMORY = 64 * 2**20
_COLUMNS = 65_536


def nearest(
    queries: np.ndarray, gallery: np.ndarray | None = None, *, k: int, memory: int = _MEMORY
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar gallery rows of each query by cosine similarity, best first.

    Args:
        queries: ``(Q, D)``.
        gallery: ``(M, D)``; None for the queries themselves, each left out of its own ranking.
        k: At most M, or M - 1 without a gallery; larger ones are cut down.
        memory: Bytes for similarities at a time.

    Returns:
        Indices ``(Q, k)`` int64 and cosines ``(Q, k)`` float32. Equal cosines stand in the gallery's order.
    """
    units = unit_rows(queries, "queries")
    candidates = units if gallery is None else unit_rows(gallery, "gallery")
    k = min(k, len(candidates) - (gallery is None))
    indices = np.empty((len(units), k), np.int64)
    cosines = np.empty((len(units), k), np.float32)
    chunk = max(2, memory // (8 * len(candidates)))
    for start in range(0, len(units), chunk):
        rows = similarity_rows(units[start : start + chunk], candidates)
        if gallery is None:
            rows[np.arange(len(rows)), np.arange(start, start + len(rows))] = -np.inf
        if k < rows.shape[1]:
            part = np.sort(np.argpartition(rows, -k, axis=1)[:, rows.shape[1] - k :], axis=1)
        else:
            part = np.broadcast_to(np.arange(k), rows.shape)
        found = np.take_along_axis(rows, part, 1)
        order = np.argsort(-found, axis=1, kind="stable")
        indices[start : start + chunk] = np.take_along_axis(part, order, 1)
        cosines[start : start + chunk] = np.take_along_axis(found, order, 1)
    return indices, cosines


def usual_neighbors(images: int) -> tuple[int, ...]:
    """The usual k, 20 and 200, each at most a tenth of the training images (at least 1)."""
    return tuple(sorted({max(1, min(k, images // 10)) for k in DEFAULT_NEIGHBORS}))


def knn_scores(
    train: np.ndarray,
    train_labels: LabelsLike,
    test: np.ndarray | None = None,
    *,
    unknown: int | None = None,
    ks: Sequence[int] = DEFAULT_NEIGHBORS,
    temperature: float = TEMPERATURE,
    classes: int | None = None,
) -> dict[int, np.ndarray]:
    """Share of the votes that each label gets from a test image's k nearest training images.

    A neighbor of cosine s votes for its label or labels with weight exp(s / T).
    Source: Wu et al. 2018, *Unsupervised Feature Learning via Non-Parametric Instance Discrimination*, 3.4.

    Args:
        train: ``(M, D)`` features.
        train_labels: ``(M,)`` integers or strings (None, NaN and ``""`` are unknown), ``(M, C)`` bool, or ``Labels``;
            images without label do not vote.
        test: ``(N, D)`` features; None for the training images themselves, each left out of its own vote.
        unknown: A number that means an unknown label, such as -1; by default every number is a label.
        ks: Numbers of neighbors; where there are fewer images, all vote.
        temperature: T.
        classes: C, if labels are numbers from 0 to C - 1; by default, where they are numbers from 0 to at most 65,535,
            the largest one and 1.

    Returns:
        For each of ``ks`` the shares ``(N, C)``, each row adding to 1 (single labels). Other labels than such numbers
        have a column for each one that occurs, in ascending order (as :func:`numpy.unique` has them).

    Raises:
        S2R2Error: No training image has a label, labels and images do not fit, or k or T is not above 0.
    """
    names, (numbers,) = number_labels(train_labels, unknown=unknown, classes=classes)
    width = len(names)
    if classes is None and numbers.ndim == 1 and width and names.dtype.kind in "biu":
        largest = int(names[-1])
        if names[0] >= 0 and largest < _COLUMNS:
            numbers, width = np.where(numbers >= 0, names[numbers].astype(np.int64), -1), largest + 1
    return _shares(train, numbers, test, ks, temperature, width)


def _shares(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray | None,
    ks: Sequence[int],
    temperature: float,
    width: int,
) -> dict[int, np.ndarray]:
    if temperature <= 0 or min(ks, default=0) < 1:
        raise ArgumentError(f"kNN with k={tuple(ks)} and temperature {temperature}: both must be above 0")
    if len(train_labels) != len(train):
        raise ArgumentError(f"{len(train_labels)} labels for {len(train)} training images: there must be one for each")
    known = train_labels.any(1) if train_labels.ndim == 2 else train_labels >= 0
    if not known.any():
        raise ArgumentError("kNN needs labels: none of the training images has one")
    if test is None and not known.all():
        raise ArgumentError("kNN among the training images themselves needs a label on each: leave out the others")
    if test is None and known.sum() < 2:
        raise ArgumentError("kNN among the images themselves needs two of them or more: a single one has no neighbor")
    labels = train_labels[known]
    candidates = train if known.all() else train[known]
    indices, cosines = nearest(candidates if test is None else test, None if test is None else candidates, k=max(ks))
    out = {}
    for k in ks:
        weights = np.exp((cosines[:, :k] - cosines[:, :1]).astype(np.float64) / temperature)
        weights /= weights.sum(1, keepdims=True)
        shares = np.zeros((len(indices), width))
        if labels.ndim == 1:
            np.add.at(shares, (np.arange(len(indices))[:, None], labels[indices[:, :k]]), weights)
        else:
            for place in range(weights.shape[1]):
                shares += weights[:, place, None] * labels[indices[:, place]]
        out[k] = shares
    return out


def without_voters(
    rows: np.ndarray, labels: np.ndarray, *, k: int, temperature: float = TEMPERATURE
) -> tuple[np.ndarray, float]:
    """What each voter's absence would change where images vote for each other, the next nearest taking its place.

    Args:
        rows: ``(N, D)`` features.
        labels: ``(N,)`` class numbers from 0.
        k: Number of neighbors.
        temperature: T.

    Returns:
        ``(N,)`` changes in the number of images whose class is found, and the sum of the squares of single changes.
    """
    indices, cosines = nearest(rows, k=k + 1)
    weights = np.exp((cosines - cosines[:, :1]).astype(np.float64) / temperature)
    changes, squares, classes = np.zeros(len(rows)), 0.0, int(labels.max()) + 1
    block = max(1, _MEMORY // (8 * classes))
    for start in range(0, len(rows), block):
        near, weight = indices[start : start + block], weights[start : start + block]
        wanted, place = labels[start : start + block], np.arange(len(near))
        votes = np.zeros((len(near), classes))
        np.add.at(votes, (place[:, None], labels[near[:, :k]]), weight[:, :k])
        before = votes.argmax(1) == wanted
        for left in range(min(k, near.shape[1])):
            others = votes.copy()
            others[place, labels[near[:, left]]] -= weight[:, left]
            if near.shape[1] > k:
                others[place, labels[near[:, k]]] += weight[:, k]
            change = (others.argmax(1) == wanted).astype(float) - before
            np.add.at(changes, near[:, left], change)
            squares += float((change**2).sum())
    return changes, squares


def knn_predictions(
    train: np.ndarray,
    train_labels: LabelsLike,
    test: np.ndarray | None = None,
    *,
    unknown: int | None = None,
    k: int = 20,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """Label with the most votes for each test image ``(N,)``. See :func:`knn_scores` for the arguments."""
    names, (numbers,) = number_labels(train_labels, unknown=unknown)
    return np.asarray(names[_shares(train, numbers, test, (k,), temperature, len(names))[k].argmax(1)])


def knn_accuracy(
    train: np.ndarray,
    train_labels: LabelsLike,
    test: np.ndarray | None = None,
    test_labels: LabelsLike | None = None,
    *,
    unknown: int | None = None,
    k: int = 20,
    temperature: float = TEMPERATURE,
) -> float:
    """Share of labeled test images whose class the vote finds, in 0..1; leave-one-out without test images.

    Cheap enough for a check during training: see :func:`knn_scores` for the arguments.

    Raises:
        S2R2Error: As for :func:`knn_scores`, images have several labels, or none of the test images' labels occurs
            among the training images.
    """
    wanted = [] if test_labels is None else [test_labels]
    names, numbers = number_labels(train_labels, *wanted, unknown=unknown)
    taught, asked = numbers[0], numbers[-1]
    if taught.ndim == 2:
        raise ArgumentError("an accuracy needs one label per image, these have several: use knn_scores")
    if len(asked) != len(train if test is None else test):
        raise ArgumentError(
            f"{len(asked)} labels for {len(train if test is None else test)} images to judge: give one each"
        )
    known = asked >= 0
    if known.any() and not np.isin(asked[known], taught).any():
        raise S2R2Error(
            f"none of the test labels, such as {names.tolist()[asked[known][0]]!r}, occurs among the training labels: "
            "write them alike in both"
        )
    votes = _shares(train, taught, test, (k,), temperature, len(names))[k].argmax(1)
    return float((votes[known] == asked[known]).mean()) if known.any() else float("nan")
