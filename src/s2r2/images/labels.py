"""What is known of the images besides their pixels: one label each, several, or none."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Labels:
    """Labels of N images.

    Attributes:
        names: The C label names, sorted.
        targets: ``(N, C)`` bool: which label belongs to which image; a row without any means unknown.
    """

    names: list[str]
    targets: np.ndarray

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[str]]) -> "Labels | None":
        """Labels from the names that each image has; None when no image has any."""
        names = sorted({name for labels in lists for name in labels})
        if not names:
            return None
        column = {name: i for i, name in enumerate(names)}
        targets = np.zeros((len(lists), len(names)), bool)
        for row, labels in enumerate(lists):
            for name in labels:
                targets[row, column[name]] = True
        return cls(names, targets)

    @property
    def single(self) -> np.ndarray | None:
        """``(N,)`` int64 label numbers, -1 where unknown; None when any image has several labels."""
        counts = self.targets.sum(1)
        if (counts > 1).any():
            return None
        return np.where(counts == 1, self.targets.argmax(1), -1).astype(np.int64)

    def lists(self) -> list[list[str]]:
        """The names that each image has."""
        return [[self.names[column] for column in np.flatnonzero(row)] for row in self.targets]

    def subset(self, indices: np.ndarray | Sequence[int]) -> "Labels":
        """The labels of some images, in the given order; all names are kept."""
        return Labels(self.names, self.targets[np.asarray(indices, np.int64)])
