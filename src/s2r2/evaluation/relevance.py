"""Which gallery image counts as relevant for which query, from labels of any kind."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.images import Labels

LabelsLike: TypeAlias = Labels | np.ndarray


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


def relevance_pair(queries: LabelsLike, gallery: LabelsLike | None) -> tuple[Relevance, Relevance]:
    """Labels of queries and gallery in one form; without a gallery the queries are it.

    Args:
        queries: :class:`~s2r2.images.Labels`, label or group numbers ``(Q,)`` with -1 for unknown, or
            ``(Q, C)`` bool with a row of False for unknown.
        gallery: The same for the gallery; columns are matched by name where both are ``Labels``.

    Raises:
        S2R2Error: The two are not of the same kind or their label columns differ.
    """
    if gallery is None:
        only = _relevance(_numbers_or_bits(queries))
        return only, only
    if isinstance(queries, Labels) and isinstance(gallery, Labels):
        queries, gallery = common_columns(queries, gallery)
        if queries.single is None or gallery.single is None:  # one form for both
            queries, gallery = queries.targets, gallery.targets
    left, right = _numbers_or_bits(queries), _numbers_or_bits(gallery)
    if left.shape[1:] != right.shape[1:]:
        raise S2R2Error(
            f"labels of queries {left.shape} and gallery {right.shape} do not match: give both as numbers (N,) "
            "or both as the same columns (N, C)"
        )
    return _relevance(left), _relevance(right)


def common_columns(first: Labels, second: Labels) -> tuple[Labels, Labels]:
    """The same labels with the same columns: the union of both sets of names, sorted."""
    if first.names == second.names:
        return first, second
    names = sorted(set(first.names) | set(second.names))
    column = {name: i for i, name in enumerate(names)}

    def spread(labels: Labels) -> Labels:
        targets = np.zeros((len(labels.targets), len(names)), bool)
        targets[:, [column[name] for name in labels.names]] = labels.targets
        return Labels(names, targets)

    return spread(first), spread(second)


def _numbers_or_bits(labels: LabelsLike) -> np.ndarray:
    if isinstance(labels, Labels):
        single = labels.single
        return labels.targets if single is None else single
    array = np.asarray(labels)
    if array.ndim == 1 and np.issubdtype(array.dtype, np.integer):
        return array.astype(np.int64)
    if array.ndim == 2 and array.dtype == bool:
        return array
    raise S2R2Error(f"labels must be integers (N,) or bool (N, C), not {array.dtype} {array.shape}")


def _relevance(labels: np.ndarray) -> Relevance:
    if labels.ndim == 1:
        return Relevance(labels.astype(np.uint64)[:, None], several=False, known=labels >= 0)
    padded = np.zeros((len(labels), -(-max(1, labels.shape[1]) // 64) * 64), bool)
    padded[:, : labels.shape[1]] = labels
    words = np.packbits(padded, axis=1, bitorder="little").view(np.uint64)
    return Relevance(np.ascontiguousarray(words), several=True, known=np.asarray(labels.any(1)))
