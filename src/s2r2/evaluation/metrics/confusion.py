"""Which classes are taken for which: the classes of nearest neighbors."""

from typing import Any

import numpy as np

from s2r2.evaluation.metrics.label_encoding import LabelsLike, number_labels
from s2r2.evaluation.metrics.neighbors import nearest

NEIGHBORS = 10
PAIRS = 12
LARGEST_TABLE = 24


def neighbor_confusion(
    embeddings: np.ndarray, labels: LabelsLike, names: list[str] | None = None, *, unknown: int | None = None
) -> dict[str, Any]:
    """For each class, how its images' ten nearest other images divide among the classes, as plain data.

    Args:
        embeddings: ``(N, D)``.
        labels: ``(N,)`` integers or strings; images with an unknown one are left out.
        names: The class names, if labels are their numbers; by default the labels.
        unknown: A number that means an unknown label, such as -1.

    Returns:
        ``names`` of the classes there are; ``shares``, rows that add to 1 (only for at most 24 classes); ``pairs``,
        the most frequent confusions as ``[class, taken for, share]``; ``k``.
    """
    present, (numbers,) = number_labels(labels, unknown=unknown)
    known = np.flatnonzero(numbers >= 0)
    numbers = numbers[known]
    indices, _ = nearest(embeddings[known], k=NEIGHBORS)
    counts = np.zeros((len(present), len(present)))
    np.add.at(counts, (numbers[:, None], numbers[indices]), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    used = [str(label) if names is None else names[label] for label in present.tolist()]
    wrong = shares - np.diag(np.diag(shares))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [(int(i) // len(used), int(i) % len(used)) for i in order]
    return {
        "names": used,
        "shares": np.round(shares, 4).tolist() if len(used) <= LARGEST_TABLE else [],
        "pairs": [[used[a], used[b], round(float(wrong[a, b]), 4)] for a, b in pairs if wrong[a, b] > 0],
        "k": int(indices.shape[1]),
    }
