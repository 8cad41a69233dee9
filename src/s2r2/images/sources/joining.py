"""Sources made of others: a part of one, and several one after another."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.images.places import Place, Stamp
from s2r2.images.sources.labels import Labels
from s2r2.images.sources.source import ImageSource
from s2r2.images.sources.strings import chosen, joined


class DerivedSource(ImageSource):
    """Images that belong to other sources."""

    @abstractmethod
    def origin(self, index: int) -> tuple[ImageSource, int]:
        """The source that an image belongs to, and its number there."""

    def read(self, index: int, short_side: int | None = None) -> np.ndarray:
        """Read from the source that the image belongs to."""
        source, number = self.origin(index)
        return source.read(number, short_side)

    def stamp(self, index: int) -> Stamp:
        """The stamp in that source."""
        source, number = self.origin(index)
        return source.stamp(number)

    def prepare_stamps(self, indices: Sequence[int]) -> None:
        """Tell the sources."""
        told: dict[ImageSource, list[int]] = {}
        for index in indices:
            source, number = self.origin(index)
            told.setdefault(source, []).append(number)
        for source, numbers in told.items():
            source.prepare_stamps(numbers)

    def place(self, index: int) -> Place:
        """The place in that source."""
        source, number = self.origin(index)
        return source.place(number)

    def location(self, index: int) -> str:
        """The location in that source."""
        source, number = self.origin(index)
        return source.location(number)


class PartSource(DerivedSource):
    """Some of another source's images."""

    def __init__(self, whole: ImageSource, part: str) -> None:
        self.whole, self.chosen = whole, whole.parts[part]
        labels = whole.labels.subset(self.chosen) if whole.labels is not None else None
        name, identity = f"{whole.name}:{part}", f"{whole.identity}:{part}"
        super().__init__(name, chosen(whole.keys, self.chosen), labels, whole.problems, identity=identity)
        self.former_prefix, self.columns, self.tables = whole.former_prefix, whole.columns, whole.tables
        if part in whole.fingerprints:
            self.fingerprints = {"": whole.fingerprints[part]}

    def column(self, name: str) -> list[str]:
        """Its cells of these images."""
        cells = self.whole.column(name)
        return [cells[int(number)] for number in self.chosen]

    def origin(self, index: int) -> tuple[ImageSource, int]:
        """The image in the whole."""
        return self.whole, int(self.chosen[index])


class JoinedSource(DerivedSource):
    """Several sources one after another; their labels are joined by name."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self.sources = list(sources)
        keys = joined([f"{i}-{Path(s.name).name}/" for i, s in enumerate(sources)], [s.keys for s in sources])
        super().__init__(
            " + ".join(source.name for source in sources),
            keys,
            Labels.join([(source.labels, len(source)) for source in sources]),
            [problem for source in sources for problem in source.problems],
            identity="\n".join(source.identity for source in sources),
        )
        self._starts = np.cumsum([0, *map(len, sources)])
        shared = [name for name in self.sources[0].columns if all(name in source.columns for source in sources)]
        self.columns = tuple(shared)
        self.tables = [table for source in self.sources for table in source.tables]

    def column(self, name: str) -> list[str]:
        """A column that all sources have."""
        return [cell for source in self.sources for cell in source.column(name)]

    def origin(self, index: int) -> tuple[ImageSource, int]:
        """The image in its own source."""
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.sources[which], index - int(self._starts[which])


def part_of(source: ImageSource, part: str) -> ImageSource:
    """The images of a part that the source's table names; all of them for an empty name.

    Raises:
        S2R2Error: There is no such part.
    """
    if not part:
        return source
    if part not in source.parts:
        known = ", ".join(source.parts) or "none: its table has no column split"
        raise S2R2Error(f"{source.name} has no part {part}; it has {known}")
    return PartSource(source, part)
