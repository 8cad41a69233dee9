"""Which gallery image counts as relevant for which query, from labels of any kind."""

from dataclasses import dataclass

import numpy as np

from s2r2.evaluation.metrics.label_encoding import LabelsLike, number_labels


@dataclass(frozen=True)
class Relevance:
    """Labels in the form that the counting kernel compares.

    Two images are relevant to each other when they have a label in common.

    Attributes:
        words: ``(N, W)`` uint64. One label each: the label number itself, W = 1. Several: their bits.
        several: Whether ``words`` holds bits.
        known: ``(N,)`` bool, False for an image without any label.
    """

    words: np.ndarray
    several: bool
    known: np.ndarray


def relevance_pair(
    queries: LabelsLike, gallery: LabelsLike | None, unknown: int | None = None
) -> tuple[Relevance, Relevance]:
    """Labels of queries and gallery in one form; without a gallery the queries are it.

    Args:
        queries: Labels or groups, as :func:`~s2r2.evaluation.metrics.label_encoding.number_labels` takes them.
        gallery: The same for the gallery; columns are matched by name where both are ``Labels``.
        unknown: A number that means an unknown label.

    Raises:
        S2R2Error: The two are not of the same kind or their label columns differ.
    """
    _, numbers = number_labels(*([queries] if gallery is None else [queries, gallery]), unknown=unknown)
    return _relevance(numbers[0]), _relevance(numbers[-1])


def _relevance(labels: np.ndarray) -> Relevance:
    if labels.ndim == 1:
        return Relevance(labels.astype(np.uint64)[:, None], several=False, known=labels >= 0)
    padded = np.zeros((len(labels), -(-max(1, labels.shape[1]) // 64) * 64), bool)
    padded[:, : labels.shape[1]] = labels
    words = np.packbits(padded, axis=1, bitorder="little").view(np.uint64)
    return Relevance(np.ascontiguousarray(words), several=True, known=np.asarray(labels.any(1)))
