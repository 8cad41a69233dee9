"""The map of an index: made by updates, kept beside its catalogue, and read by the page."""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from s2r2.embedding_map import placed_between, positions
from s2r2.errors import S2R2Error
from s2r2.search.storage.catalog import Catalogue
from s2r2.search.storage.layout import DamagedIndex
from s2r2.search.storage.published import Published
from s2r2.search.storage.thumbnails import why_gone
from s2r2.system.files import checksum

REMADE_FROM = 0.25
"""The map is made anew once so many of its photos have come or gone since it was made."""
_ANCHORS = 8000


def map_file(number: int) -> str:
    """Name of the map that belongs to catalogue ``number``."""
    return f"map-{number}.npz"


@dataclass(frozen=True)
class StoredMap:
    """Places of N photos.

    Attributes:
        places: ``(N, 2)`` float32 within [0, 1] or a little beyond.
        made: ``(N,)`` bool: those that were placed when the map was made; the others came later.
        made_of: How many were placed then; some may be gone.
    """

    places: np.ndarray
    made: np.ndarray
    made_of: int

    @classmethod
    def anew(cls, vectors: np.ndarray) -> "StoredMap":
        """A new map of all photos."""
        return cls(positions(vectors), np.ones(len(vectors), bool), len(vectors))

    @classmethod
    def read(cls, path: Path, photos: int) -> "StoredMap":
        """Read a map.

        Raises:
            OSError: It is not there.
            ValueError: It is no map of so many photos.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                found = cls(file["places"], file["made"], int(file["made_of"]))
        except (KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path.name}: {error}") from error
        shapes = found.places.shape, found.made.shape
        if shapes != ((photos, 2), (photos,)) or found.places.dtype != np.dtype(np.float32):
            raise ValueError(f"{path.name} is no map of {photos} photos")
        return found

    def brought_to(self, before: Catalogue, now: Catalogue) -> "StoredMap":
        """The map of the photos that there are now: those known by content stay where they are.

        Args:
            before: The photos of this map.
            now: Those of the new one.
        """
        rows = _same_photos(before, now)
        known, new = np.flatnonzero(rows >= 0), np.flatnonzero(rows < 0)
        made = np.zeros(len(now), bool)
        made[known] = self.made[rows[known]]
        stayed = int(made.sum())
        if len(now) + self.made_of - 2 * stayed > REMADE_FROM * max(len(now), self.made_of):
            return StoredMap.anew(now.vectors)
        places = np.empty((len(now), 2), np.float32)
        places[known] = self.places[rows[known]]
        if len(new):
            generator = np.random.default_rng(len(now))
            chosen = known if len(known) <= _ANCHORS else np.sort(generator.choice(known, _ANCHORS, replace=False))
            anchors = np.ascontiguousarray(now.vectors[chosen])
            places[new] = placed_between(now.vectors, new, anchors, places[chosen], seed=len(now))
        return StoredMap(places, made, self.made_of)

    def write(self, path: Path) -> None:
        """Write the map; it is durable then."""
        with open(path, "wb") as file:
            np.savez(file, places=self.places, made=self.made, made_of=np.int64(self.made_of))
            file.flush()
            os.fsync(file.fileno())


def write_map(generation: Path, catalogue: Catalogue, number: int, before: Published | None) -> dict[str, str]:
    """Write the map of a catalogue, from the one before where there is one.

    Args:
        generation: Folder of both.
        catalogue: Of the photos.
        number: Of the catalogue.
        before: What was published in this generation until now.

    Returns:
        Checksum of the file, by name.
    """
    found = _brought_up(generation, catalogue, before) if before is not None else None
    name = map_file(number)
    (found or StoredMap.anew(catalogue.vectors)).write(generation / name)
    return {name: checksum(generation / name)}


def read_map(folder: Path, about: Published) -> np.ndarray | None:
    """Places ``(N, 2)`` float32 of the photos of an index; None if an earlier version made it, without a map.

    Raises:
        IndexGone: An update has replaced the map.
        DamagedIndex: It is not what was written.
    """
    name = map_file(about.number)
    if name not in about.files:
        return None
    path = folder / about.generation / name
    try:
        if checksum(path) != about.files[name]:
            raise DamagedIndex(folder, f"{name} is not what was written")
        return StoredMap.read(path, about.photos).places
    except FileNotFoundError as error:
        raise why_gone(folder, about) from error
    except (OSError, ValueError) as error:
        raise DamagedIndex(folder, error) from error


def _brought_up(generation: Path, now: Catalogue, published: Published) -> StoredMap | None:
    """The map of what was published, for the photos that there are now; None where it is not there or damaged."""
    name = map_file(published.number)
    if name not in published.files:
        return None
    try:
        if checksum(generation / name) != published.files[name]:
            return None
        sizes = published.number, published.photos, published.dimensions
        before = Catalogue.open(generation, *sizes, published.files)
        return StoredMap.read(generation / name, len(before)).brought_to(before, now)
    except (OSError, ValueError, S2R2Error):
        return None


def _same_photos(before: Catalogue, now: Catalogue) -> np.ndarray:
    """Row before of each photo now: that with the same content, under the same name if there is one; else -1."""
    contents = [catalogue.table["content"].combine_chunks() for catalogue in (before, now)]
    rows = before.rows_of(now.ids)
    there = np.flatnonzero(rows >= 0)
    same = pc.equal(contents[0].take(rows[there]), contents[1].take(there)).to_numpy(zero_copy_only=False)
    rows[there[~same]] = -1
    moved = np.flatnonzero(rows < 0)
    if len(moved):
        found = pc.index_in(contents[1].take(moved), value_set=contents[0])
        rows[moved] = pc.fill_null(found, -1).to_numpy(zero_copy_only=False)
    return rows
