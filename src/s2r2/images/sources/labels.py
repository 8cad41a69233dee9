"""What is known of the images besides their pixels: one label each, several, or none."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np


class Labels:
    """Labels of N images: few different lists of label numbers, end to end, and for each image which of them it has.

    A table of N images by C labels would be larger than the photos where there are millions of the one and thousands
    of the other; it is made when :attr:`targets` is asked for.

    Args:
        names: The C label names, sorted.
        targets: ``(N, C)`` bool: which label belongs to which image; a row without any means unknown.

    Attributes:
        names: The C label names, sorted.
    """

    def __init__(self, names: list[str], targets: np.ndarray) -> None:
        rows, columns = np.nonzero(targets)
        self.names = names
        self._cells = np.arange(len(targets))
        self._offsets = _offsets(np.bincount(rows, minlength=len(targets)))
        self._columns = columns.astype(np.int32)

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[str]]) -> "Labels | None":
        """Labels from the names that each image has; None when no image has any."""
        return cls.from_cells(np.arange(len(lists)), lists)

    @classmethod
    def from_cells(cls, cells: np.ndarray, lists: Sequence[Sequence[str]]) -> "Labels | None":
        """Labels of images of which many have the same ones; None when no image has any.

        Args:
            cells: ``(N,)`` integers, kept as they are, such as a memory map: the list of each image.
            lists: Lists of names.
        """
        names = sorted({name for labels in lists for name in labels})
        if not names:
            return None
        column = {name: i for i, name in enumerate(names)}
        sets = [sorted({column[name] for name in labels}) for labels in lists]
        offsets = _offsets(np.array([len(numbers) for numbers in sets], np.int64))
        numbers = np.fromiter((number for numbers in sets for number in numbers), np.int32, int(offsets[-1]))
        return cls._of(names, cells, offsets, numbers)

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
        cells: list[np.ndarray] = []
        counts: list[np.ndarray] = [np.zeros(1, np.int64)]  # the first list is that of images without labels
        columns: list[np.ndarray] = [np.empty(0, np.int32)]
        for labels, count in parts:
            if labels is None:
                cells.append(np.zeros(count, np.int64))
                continue
            cells.append(labels._cells + sum(map(len, counts)))
            counts.append(np.diff(labels._offsets))
            columns.append(np.array([column[name] for name in labels.names], np.int32)[labels._columns])
        return cls._of(names, np.concatenate(cells), _offsets(np.concatenate(counts)), np.concatenate(columns))

    @classmethod
    def _of(cls, names: list[str], cells: np.ndarray, offsets: np.ndarray, columns: np.ndarray) -> "Labels":
        """Labels from their parts.

        Args:
            names: The C label names, sorted.
            cells: ``(N,)`` integers: which list each image has.
            offsets: ``(L + 1,)`` int64: the numbers of list i are ``columns[offsets[i]:offsets[i + 1]]``.
            columns: int32 label numbers, ascending within a list.
        """
        made = cls.__new__(cls)
        made.names, made._cells, made._offsets, made._columns = names, cells, offsets, columns
        return made

    def __len__(self) -> int:
        return len(self._cells)

    def __repr__(self) -> str:
        return f"Labels({len(self)} images, {len(self.names)} names)"

    @cached_property
    def targets(self) -> np.ndarray:
        """``(N, C)`` bool: which label belongs to which image; a row without any means unknown."""
        lists = np.zeros((len(self._offsets) - 1, len(self.names)), bool)
        lists[np.repeat(np.arange(len(lists)), np.diff(self._offsets)), self._columns] = True
        return lists[self._cells]

    @property
    def one_each(self) -> bool:
        """Whether no image has several labels."""
        several = np.diff(self._offsets) > 1
        return not (several.any() and several[self._cells].any())

    @property
    def single(self) -> np.ndarray | None:
        """``(N,)`` int64 label numbers, -1 where unknown; None when any image has several labels."""
        if not self.one_each:
            return None
        counts = np.diff(self._offsets)
        numbers = np.full(len(counts), -1, np.int64)
        numbers[counts == 1] = self._columns[self._offsets[:-1][counts == 1]]
        return numbers[self._cells]

    def some(self, most: int) -> np.ndarray:
        """Up to ``most`` numbers of images that have labels, taken evenly."""
        has = np.diff(self._offsets) > 0
        labeled = None if has.all() else np.flatnonzero(has[self._cells])  # a number for each image is much memory
        count = len(self) if labeled is None else len(labeled)
        chosen = np.unique(np.linspace(0, count - 1, num=min(most, count), dtype=np.int64))
        return chosen if labeled is None else labeled[chosen]

    def of(self, index: int) -> list[str]:
        """The names that one image has."""
        cell = self._cells[index]
        return [self.names[column] for column in self._columns[self._offsets[cell] : self._offsets[cell + 1]]]

    def lists(self) -> list[list[str]]:
        """The names that each image has."""
        return [self.of(index) for index in range(len(self))]

    def subset(self, indices: np.ndarray | Sequence[int]) -> "Labels":
        """The labels of some images, in the given order; all names are kept."""
        return self._of(self.names, self._cells[np.asarray(indices, np.int64)], self._offsets, self._columns)


def folder_labels(keys: Sequence[str]) -> Labels | None:
    """Labels from sub-folders, when every key is ``label/file`` and there are at least two labels."""
    parts = [key.split("/") for key in keys]
    if any(len(p) != 2 for p in parts) or len({p[0] for p in parts}) < 2:
        return None
    return Labels.from_lists([[p[0]] for p in parts])


def _offsets(counts: np.ndarray) -> np.ndarray:
    """Where each of the lists of so many numbers begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
