"""Weighted k-nearest-neighbour classification, as self-supervised encoders are judged by it."""

import numpy as np

from s2r2.errors import S2R2Error

_CHUNK = 4 << 20


def knn_predictions(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, *, k: int = 20, temperature: float = 0.07
) -> np.ndarray:
    """Class of each test image by a vote of its k nearest training images, weighted by exp(cosine / T).

    Source: Wu et al. 2018, *Unsupervised feature learning via non-parametric instance discrimination*, 3.4.

    Args:
        train: ``(M, D)`` rows of length 1.
        train_labels: ``(M,)`` integers; unknown ones (-1) do not vote.
        test: ``(N, D)``.
        k: Neighbours; at most all of them.
        temperature: T.

    Returns:
        ``(N,)`` integers.

    Raises:
        S2R2Error: No training image has a label.
    """
    known = train_labels >= 0
    if not known.any():
        raise S2R2Error("kNN needs labels: none of the training images has one")
    train, train_labels = train[known], train_labels[known]
    k = min(k, len(train))
    classes = int(train_labels.max()) + 1
    predictions = np.empty(len(test), np.int64)
    rows = max(1, _CHUNK // len(train))
    for start in range(0, len(test), rows):
        scores = test[start : start + rows] @ train.T
        nearest = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        weights = np.exp((np.take_along_axis(scores, nearest, 1) - 1) / temperature)
        votes = np.zeros((len(scores), classes))
        np.add.at(votes, (np.arange(len(scores))[:, None], train_labels[nearest]), weights)
        predictions[start : start + rows] = votes.argmax(1)
    return predictions
