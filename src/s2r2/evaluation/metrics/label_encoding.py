"""Labels of any kind as class numbers: integers of any size and sign, strings, and mixtures of them."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images import Labels

LabelsLike: TypeAlias = Labels | np.ndarray | Sequence[Any]
"""One label an image: integers, bools or strings; None, NaN or ``""`` for an unknown one. Several: ``(N, C)`` bool.
Or :class:`~s2r2.images.Labels`."""


def number_labels(
    *sets: LabelsLike, unknown: int | None = None, classes: int | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """One numbering for the labels of several sets of images.

    Args:
        sets: Labels of each set.
        unknown: A number that means an unknown label, such as -1; by default every number is a label.
        classes: C, if labels are numbers from 0 to C - 1 already; by default those that occur are numbered.

    Returns:
        The classes ``(C,)`` in ascending order; for each set ``(N,)`` int64 numbers of classes, -1 for unknown, or
        ``(N, C)`` bool as given.

    Raises:
        S2R2Error: Labels are of another kind, or the sets do not fit together.
    """
    if all(isinstance(labels, Labels) for labels in sets):
        names, found = _of_labels(*sets)  # type: ignore[arg-type]
        return names, found
    arrays = [_array(labels) for labels in sets]
    if any(array.ndim == 2 for array in arrays):
        if len({array.shape[1:] for array in arrays}) > 1:
            shapes = " and ".join(str(array.shape) for array in arrays)
            raise ArgumentError(
                f"labels {shapes} do not match: give all as one label per image (N,) or all as the same columns (N, C)"
            )
        return np.arange(arrays[0].shape[1]), arrays
    parts = [
        _known(array, -1 if isinstance(labels, Labels) else unknown) for array, labels in zip(arrays, sets, strict=True)
    ]
    names, numbers = _numbers([values[known] for values, known in parts])
    if classes is not None:
        wrong = [name for name in names.tolist() if _is_text(name) or not 0 <= name < classes]
        if wrong:
            raise S2R2Error(f"label {wrong[0]!r} is no number from 0 to {classes - 1}: leave out classes={classes}")
        numbers = [names[own].astype(np.int64) for own in numbers]
        names = np.arange(classes)
    out = []
    for (_, known), own in zip(parts, numbers, strict=True):
        out.append(np.full(len(known), -1, np.int64))
        out[-1][known] = own
    return names, out


def _of_labels(*sets: Labels) -> tuple[np.ndarray, list[np.ndarray]]:
    together = common_columns(sets[0], sets[-1])[: len(sets)]
    single = [labels.single for labels in together]
    several = any(numbers is None for numbers in single)  # then one form for both
    plain = [labels.targets if several else numbers for labels, numbers in zip(together, single, strict=True)]
    return np.array(together[0].names), plain  # type: ignore[return-value]


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


def _array(labels: LabelsLike) -> np.ndarray:
    if isinstance(labels, Labels):
        single = labels.single
        return labels.targets if single is None else single
    if hasattr(labels, "detach"):  # a tensor of torch
        labels = labels.detach().cpu().numpy()
    if isinstance(labels, list | tuple) and not any(isinstance(v, list | tuple | np.ndarray) for v in labels):
        array = np.empty(len(labels), object)  # as they are: numpy makes strings of the numbers beside a text
        array[:] = labels
    else:
        array = np.asarray(labels)
    if array.ndim == 2 and array.dtype == bool:
        return array
    if array.ndim != 1 or array.dtype.kind not in "biufUSO":
        raise ArgumentError(f"labels must be integers or strings (N,), or bool (N, C), not {array.dtype} {array.shape}")
    return np.char.decode(array, "utf-8", "surrogateescape") if array.dtype.kind == "S" else array


def _known(array: np.ndarray, unknown: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Values ``(N,)`` of integers, strings or both, and which of them are known."""
    if array.dtype.kind in "fO":
        cells = [_cell(value, row) for row, value in enumerate(array.tolist())]
        known = np.array([cell is not None for cell in cells], bool)
        array = np.empty(len(cells), object)
        array[:] = cells
    elif array.dtype.kind == "U":
        known = array != ""
    else:
        known = np.ones(len(array), bool)
    if unknown is not None:
        known &= array != unknown
    return array, known


def _cell(value: Any, row: int) -> int | str | None:
    """A label as a plain integer or text; None for an unknown one."""
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if (
        value is None
        or value == ""
        or type(value).__name__ == "NAType"
        or (isinstance(value, float) and value != value)
    ):
        return None
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise S2R2Error(f"label {value!r:.60} of row {row} is neither a whole number nor a string: number it first")


def _numbers(columns: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The values that occur, ascending, and each column in their numbers."""
    kinds = [
        {_is_text(v) for v in column} if column.dtype == object else {column.dtype.kind == "U"} for column in columns
    ]
    filled = [kind for kind, column in zip(kinds, columns, strict=True) if len(column)]
    if len(filled) > 1 and not set.intersection(*filled):
        raise ArgumentError("some labels are numbers and the others strings, so none would match: give all of one kind")
    if any(column.dtype == object for column in columns) or len({column.dtype.kind for column in columns}) > 1:
        cells = [column.tolist() for column in columns]
        names = sorted({value for column in cells for value in column}, key=lambda v: (_is_text(v), v))
        number = {name: i for i, name in enumerate(names)}
        found = np.empty(len(names), object)
        found[:] = names
        if not any(map(_is_text, names)) and all(-(2**63) <= name < 2**63 for name in names):
            found = found.astype(np.int64)
        elif all(map(_is_text, names)):
            found = found.astype(str)
        return found, [np.array([number[value] for value in column], np.int64) for column in cells]
    found, inverse = np.unique(np.concatenate(columns), return_inverse=True)
    return found, np.split(inverse.astype(np.int64), np.cumsum([len(column) for column in columns])[:-1])


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
