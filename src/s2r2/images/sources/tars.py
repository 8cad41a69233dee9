"""Images in tars that are read in place."""

import os
from collections.abc import Sequence

import numpy as np

from s2r2.images.places import FilePlace, RemotePlace, Stamp
from s2r2.images.sources.labels import Labels
from s2r2.images.sources.names import printable
from s2r2.images.sources.source import PlacedSource
from s2r2.images.sources.tar_index import TarIndex


class TarSource(PlacedSource):
    """Images of uncompressed tars, one tar after another.

    Args:
        name: What to call it.
        keys: Unique name of each image.
        labels: What is known of the images, or None.
        tars: Where the tars are.
        written: The same as the user wrote it.
        indexes: Where the images are in each.
    """

    def __init__(
        self,
        name: str,
        keys: Sequence[str],
        labels: Labels | None,
        tars: Sequence[FilePlace | RemotePlace],
        written: Sequence[str],
        indexes: Sequence[TarIndex],
    ) -> None:
        problems = [problem for index in indexes for problem in index.problems]
        identity = "\n".join(t.address if isinstance(t, RemotePlace) else os.path.realpath(t.path) for t in tars)
        super().__init__(name, keys, labels, problems, identity=identity)
        self.tars, self.written, self.indexes = list(tars), list(written), list(indexes)
        self._starts = np.cumsum([0, *map(len, indexes)])

    def place(self, index: int) -> FilePlace | RemotePlace:
        """The member's part of its tar."""
        which, inner = self._find(index)
        found = self.indexes[which]
        return self.tars[which]._replace(offset=int(found.offsets[inner]), size=int(found.sizes[inner]))

    def stamp(self, index: int) -> Stamp:
        """Place and size of the member, and what the tar looked like when it was opened."""
        place, (which, _) = self.place(index), self._find(index)
        return (place.offset, place.size, *self.indexes[which].stamp)

    def location(self, index: int) -> str:
        """Path of the tar and name of the member."""
        which, inner = self._find(index)
        return f"{printable(self.written[which])}::{self.indexes[which].names[inner]}"

    def _find(self, index: int) -> tuple[int, int]:
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        return which, index - int(self._starts[which])
