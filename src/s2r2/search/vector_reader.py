"""Photos to rows with vectors that were made elsewhere: joined by key and content, and read for their thumbnails."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from s2r2.encoder.precision import vectors_fingerprint
from s2r2.errors import ArgumentError
from s2r2.images import ImageSource, Skipped
from s2r2.images.remote import is_remote
from s2r2.images.sources.names import printable
from s2r2.search.photo_reader import AHEAD, PIECE, THUMBNAIL_SIDE, PhotoReader, ReadPhoto, threads_for
from s2r2.search.storage.catalog import places_of
from s2r2.search.storage.rows import photo_id
from s2r2.search.stored_vectors import StoredVectors
from s2r2.system.prefetch import in_order
from s2r2.system.wording import amount

if TYPE_CHECKING:
    from s2r2.distributed.processes import Processes


class _Job(NamedTuple):
    """A photo to be read, and its vector."""

    photo: int
    stamp: str
    content: str
    vector: np.ndarray


class StoredVectorReader(PhotoReader):
    """Reads the photos of a source for which there are vectors, in the order of the vectors.

    Args:
        source: The photos.
        vectors: Their vectors.
        contents: As for :class:`PhotoReader`.
        side: Likewise.

    Raises:
        ArgumentError: No vector belongs to a photo of the source.
    """

    def __init__(self, source: ImageSource, vectors: StoredVectors, contents: frozenset[str], side: int) -> None:
        fingerprint = vectors_fingerprint(vectors.fingerprint, vectors.precision)
        super().__init__(source, fingerprint, contents, max(side, THUMBNAIL_SIDE))
        self.vectors = vectors
        ids = np.fromiter((photo_id(self._name(i)) for i in range(len(source))), np.int64, len(source))
        self._places = places_of(ids, np.argsort(ids), vectors.ids)
        self._unused = self._names_of(np.flatnonzero(self._places < 0))
        if len(self._unused) == len(vectors):
            raise ArgumentError(
                f"no vector in {vectors.shown} belongs to a photo of {printable(source.name)}: there they are called "
                f"such as {self._unused[0]}, here such as {self._name(0)}; give `vectors` of this DATA"
            )

    def encoded(
        self, wanted: Sequence[tuple[int, str]], size: int, processes: "Processes"
    ) -> Iterator[list[ReadPhoto]]:
        """The photos in the order of their vectors, then those that have none."""
        waiting = np.full(len(self.source), -1, np.int64)
        waiting[[index for index, _ in wanted]] = np.arange(len(wanted))
        jobs = self._jobs(wanted, waiting)
        threads = threads_for(self.source, processes.threads)
        with contextlib.closing(
            in_order(self._read_one, jobs, threads=threads, ahead=AHEAD * size, at_once=PIECE, name="s2r2-read")
        ) as read:
            while batch := list(islice(read, size)):
                yield batch
        without = [wanted[place][0] for place in waiting[waiting >= 0].tolist()]
        for start in range(0, len(without), size):
            yield [ReadPhoto(index, {}, reason=self._why(index)) for index in without[start : start + size]]

    def notes(self) -> list[str]:
        """How vectors and photos have come together."""
        count, unused = len(self.vectors), len(self._unused)
        said = [
            f"vectors   {count - unused:,} of {count:,} belong to a photo; {amount(unused, 'vector')} without a "
            f"photo, {amount(len(self.source) - count + unused, 'photo')} without a vector"
        ]
        if self.vectors.normalized:
            said.append(f"vectors   {self.vectors.normalized:,} were not of length 1 and have been normalized")
        if self.vectors.encoder is None:
            said.append(f"encoder   not found: {self.vectors.why_no_encoder}")
        return said

    def unused(self) -> list[Skipped]:
        """Vectors without a photo."""
        return [Skipped(name, "a vector without a photo: DATA has none of this name") for name in self._unused]

    def _jobs(self, wanted: Sequence[tuple[int, str]], waiting: np.ndarray) -> Iterator[_Job]:
        start = 0
        for rows in self.vectors.rows():
            for row, index in enumerate(self._places[start : start + len(rows.names)].tolist()):
                if index >= 0 and waiting[index] >= 0:
                    stamp = wanted[waiting[index]][1]
                    waiting[index] = -1
                    yield _Job(index, stamp, rows.contents[row], rows.vectors[row])
            start += len(rows.names)

    def _names_of(self, numbers: np.ndarray) -> list[str]:
        """Names of some rows of the vectors."""
        found: list[str] = []
        start = 0
        for rows in self.vectors.rows() if len(numbers) else ():
            here = numbers[np.searchsorted(numbers, start) : np.searchsorted(numbers, start + len(rows.names))]
            found += [rows.names[number - start] for number in here.tolist()]
            start += len(rows.names)
        return found

    def _read_one(self, job: _Job) -> ReadPhoto:
        photo = self._read(job.photo, job.stamp)
        if photo.reason or "thumbnail" not in photo.row:  # unreadable, or its content is in the index already
            return photo
        if job.content not in ("", photo.row["content"]):
            photo.reason = "it has changed since its vector was made"
        else:
            photo.row["vector"] = job.vector
        return photo

    def _why(self, index: int) -> str:
        return self.vectors.reasons.get(self._name(index), f"{self.vectors.shown} has no vector of it")

    def _name(self, index: int) -> str:
        """What a photo is called where vectors are."""
        if not self.vectors.by_path:
            return self.key(index)
        location = self.location(index)
        return location if is_remote(location) else os.path.abspath(location)
