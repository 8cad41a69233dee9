"""Sequences of strings that do not cost a Python object each: a million keys must be nothing to speak of."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np

AT_ONCE = 1 << 14


class Computed(Sequence[str]):
    """N strings, each made when it is asked for.

    Args:
        count: N.
        make: Gives the string of a number in 0..N-1.
        walk: Gives all of them in order, where that is faster.
    """

    def __init__(self, count: int, make: Callable[[int], str], walk: Callable[[], Iterator[str]] | None = None) -> None:
        self._count = count
        self._make = make
        self._walk = walk

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(self._count))]
        place = int(index) + (self._count if index < 0 else 0)
        if not 0 <= place < self._count:
            raise IndexError(f"{index} is outside of {self._count} strings")
        return self._make(place)

    def __iter__(self) -> Iterator[str]:
        return map(self._make, range(self._count)) if self._walk is None else self._walk()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]


def from_arrow(column: Any) -> Computed:
    """The strings of an Arrow array, in one piece or in several, where they are."""

    def walk() -> Iterator[str]:
        for start in range(0, len(column), AT_ONCE):
            yield from column[start : start + AT_ONCE].to_pylist()

    return Computed(len(column), lambda index: column[index].as_py(), walk)


def chosen(strings: Sequence[str], numbers: np.ndarray) -> Computed:
    """Some of the strings, by number."""
    return Computed(len(numbers), lambda index: strings[int(numbers[index])])


def joined(prefixes: Sequence[str], parts: Sequence[Sequence[str]]) -> Computed:
    """Several sequences one after another, the strings of each with its prefix."""
    starts = np.cumsum([0, *map(len, parts)])

    def make(index: int) -> str:
        which = int(np.searchsorted(starts, index, side="right")) - 1
        return prefixes[which] + parts[which][index - int(starts[which])]

    def walk() -> Iterator[str]:
        return (prefix + text for prefix, part in zip(prefixes, parts, strict=True) for text in part)

    return Computed(int(starts[-1]), make, walk)
