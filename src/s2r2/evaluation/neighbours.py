"""Nearest neighbours, and classification by their votes."""

from collections.abc import Sequence

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.evaluation.retrieval import similarity_rows, unit_rows

DEFAULT_NEIGHBOURS = (20, 200)
TEMPERATURE = 0.07
_MEMORY = 64 * 2**20


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


def usual_neighbours(images: int) -> tuple[int, ...]:
    """The usual k, 20 and 200, each at most a tenth of the training images (at least 1)."""
    return tuple(sorted({max(1, min(k, images // 10)) for k in DEFAULT_NEIGHBOURS}))


def knn_scores(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray | None = None,
    *,
    ks: Sequence[int] = DEFAULT_NEIGHBOURS,
    temperature: float = TEMPERATURE,
    classes: int | None = None,
) -> dict[int, np.ndarray]:
    """Share of the votes that each label gets from a test image's k nearest training images.

    A neighbour of cosine s votes for its label or labels with weight exp(s / T).
    Source: Wu et al. 2018, *Unsupervised Feature Learning via Non-Parametric Instance Discrimination*, 3.4.

    Args:
        train: ``(M, D)`` features.
        train_labels: ``(M,)`` integers, -1 for unknown, or ``(M, C)`` bool; images without label do not vote.
        test: ``(N, D)`` features; None for the training images themselves, each left out of its own vote.
        ks: Numbers of neighbours; where there are fewer images, all vote.
        temperature: T.
        classes: Number of labels C for integer labels; by default the largest one and 1.

    Returns:
        For each of ``ks`` the shares ``(N, C)``, each row adding to 1 (single labels).

    Raises:
        S2R2Error: No training image has a label, or k or T is not above 0.
    """
    if temperature <= 0 or min(ks, default=0) < 1:
        raise S2R2Error(f"kNN with k={tuple(ks)} and temperature {temperature}: both must be above 0")
    known = train_labels.any(1) if train_labels.ndim == 2 else train_labels >= 0
    if not known.any():
        raise S2R2Error("kNN needs labels: none of the training images has one")
    if test is None and not known.all():
        raise S2R2Error("kNN among the training images themselves needs a label on each: leave out the others")
    if test is None and known.sum() < 2:
        raise S2R2Error("kNN among the images themselves needs two of them or more: a single one has no neighbour")
    labels = train_labels[known]
    if labels.ndim == 1:
        width = classes or int(labels.max()) + 1
        columns = labels
    else:
        width = labels.shape[1]
    candidates = train if known.all() else train[known]
    indices, cosines = nearest(candidates if test is None else test, None if test is None else candidates, k=max(ks))
    out = {}
    for k in ks:
        weights = np.exp((cosines[:, :k] - cosines[:, :1]).astype(np.float64) / temperature)
        weights /= weights.sum(1, keepdims=True)
        shares = np.zeros((len(indices), width))
        if labels.ndim == 1:
            np.add.at(shares, (np.arange(len(indices))[:, None], columns[indices[:, :k]]), weights)
        else:
            for place in range(weights.shape[1]):
                shares += weights[:, place, None] * labels[indices[:, place]]
        out[k] = shares
    return out


def knn_predictions(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray | None = None,
    *,
    k: int = 20,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """Class with the most votes for each test image: ``(N,)`` integers. See :func:`knn_scores`."""
    return knn_scores(train, train_labels, test, ks=(k,), temperature=temperature)[k].argmax(1)


def knn_accuracy(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray | None = None,
    test_labels: np.ndarray | None = None,
    *,
    k: int = 20,
    temperature: float = TEMPERATURE,
) -> float:
    """Share of labelled test images whose class the vote finds, in 0..1; leave-one-out without test images.

    Cheap enough for a check during training: see :func:`knn_scores` for the arguments.
    """
    wanted = train_labels if test_labels is None else test_labels
    votes = knn_predictions(train, train_labels, test, k=k, temperature=temperature)
    known = wanted >= 0
    return float((votes[known] == wanted[known]).mean()) if known.any() else float("nan")
