"""What is known of the images besides their pixels: one label each, several, or none."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np


class Labels:
    """Labels of N images, kept as a list of label numbers each, end to end.

    A table of N images by C labels would be larger than the photos where there are millions of the one and thousands
    of the other; it is made when :attr:`targets` is asked for.

    Args:
        names: The C label names, sorted.
        targets: ``(N, C)`` bool: which label belongs to which image; a row without any means unknown.

    Attributes:
        names: The C label names, sorted.
        offsets: ``(N + 1,)`` int64: the numbers of image i are ``columns[offsets[i]:offsets[i + 1]]``.
        columns: int32 label numbers, ascending within an image.
    """

    def __init__(self, names: list[str], targets: np.ndarray) -> None:
        self.names = names
        rows, columns = np.nonzero(targets)
        self.offsets = _offsets(np.bincount(rows, minlength=len(targets)))
        self.columns = columns.astype(np.int32)

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[str]]) -> "Labels | None":
        """Labels from the names that each image has; None when no image has any."""
        return cls.from_cells(np.arange(len(lists)), lists)

    @classmethod
    def from_cells(cls, cells: np.ndarray, lists: Sequence[Sequence[str]]) -> "Labels | None":
        """Labels of images of which many have the same ones; None when no image has any.

        Args:
            cells: ``(N,)`` integers: the list of each image.
            lists: Lists of names.
        """
        names = sorted({name for labels in lists for name in labels})
        if not names:
            return None
        column = {name: i for i, name in enumerate(names)}
        sets = [sorted({column[name] for name in labels}) for labels in lists]
        offsets = _offsets(np.array([len(numbers) for numbers in sets], np.int64))
        numbers = np.fromiter((number for numbers in sets for number in numbers), np.int32, int(offsets[-1]))
        return cls._of(names, offsets, numbers).subset(cells)

    @classmethod
    def join(cls, parts: Sequence[tuple["Labels | None", int]]) -> "Labels | None":
        """The labels of several sets of images one after another, joined by name; None when none has any.

        Args:
            parts: Labels and number of images of each set.
        """
        names = sorted({name for labels, _ in parts if labels is not None for name in labels.names})
        if not names:
            return None
        column = {name: i for i, name in enumerate(names)}
        counts: list[np.ndarray] = []
        columns: list[np.ndarray] = []
        for labels, count in parts:
            if labels is None:
                counts.append(np.zeros(count, np.int64))
                continue
            counts.append(np.diff(labels.offsets))
            columns.append(np.array([column[name] for name in labels.names], np.int32)[labels.columns])
        return cls._of(names, _offsets(np.concatenate(counts)), np.concatenate(columns))

    @classmethod
    def _of(cls, names: list[str], offsets: np.ndarray, columns: np.ndarray) -> "Labels":
        made = cls.__new__(cls)
        made.names, made.offsets, made.columns = names, offsets, columns
        return made

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"Labels({len(self)} images, {len(self.names)} names)"

    @cached_property
    def targets(self) -> np.ndarray:
        """``(N, C)`` bool: which label belongs to which image; a row without any means unknown."""
        table = np.zeros((len(self), len(self.names)), bool)
        table[np.repeat(np.arange(len(self)), np.diff(self.offsets)), self.columns] = True
        return table

    @property
    def single(self) -> np.ndarray | None:
        """``(N,)`` int64 label numbers, -1 where unknown; None when any image has several labels."""
        counts = np.diff(self.offsets)
        if (counts > 1).any():
            return None
        numbers = np.full(len(self), -1, np.int64)
        numbers[counts == 1] = self.columns
        return numbers

    def of(self, index: int) -> list[str]:
        """The names that one image has."""
        return [self.names[column] for column in self.columns[self.offsets[index] : self.offsets[index + 1]]]

    def lists(self) -> list[list[str]]:
        """The names that each image has."""
        return [self.of(index) for index in range(len(self))]

    def subset(self, indices: np.ndarray | Sequence[int]) -> "Labels":
        """The labels of some images, in the given order; all names are kept."""
        rows: Any = np.asarray(indices, np.int64)
        counts = np.diff(self.offsets)[rows]
        offsets = _offsets(counts)
        places = np.repeat(self.offsets[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
        return self._of(self.names, offsets, self.columns[places])


def folder_labels(keys: Sequence[str]) -> Labels | None:
    """Labels from sub-folders, when every key is ``label/file`` and there are at least two labels."""
    parts = [key.split("/") for key in keys]
    if any(len(p) != 2 for p in parts) or len({p[0] for p in parts}) < 2:
        return None
    return Labels.from_lists([[p[0]] for p in parts])


def _offsets(counts: np.ndarray) -> np.ndarray:
    """Where each of the lists of so many numbers begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
