"""Photos to rows: reading, hashing, decoding and shrinking in threads, while the encoder works on those before."""

import contextlib
import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from s2r2.errors import NonFiniteError
from s2r2.images import ImageSource, PhotoFacts, Skipped, UnreadableImage, decode_expendable, decode_with_facts
from s2r2.images.places import FilePlace, RemotePlace
from s2r2.images.remote import AT_ONCE, is_remote
from s2r2.images.sources.names import printable, unique
from s2r2.search.storage.rows import content_hash, facts_row, photo_id
from s2r2.search.storage.thumbnails import seal
from s2r2.system.prefetch import in_order
from s2r2.system.thumbnails import jpeg

if TYPE_CHECKING:
    from s2r2.distributed.processes import Processes
    from s2r2.encoder import Encoder
    from s2r2.encoder.precision import Precision
    from s2r2.search.stored_vectors import StoredVectors

T = TypeVar("T")
Read = TypeVar("Read")

THUMBNAIL_SIDE = 192
AHEAD = 3
PIECE = 8
"""Photos that a thread takes at once: it costs less to say so than for each."""

NO_DIRECTION = "the encoder gives it a vector of length 0, which is similar to nothing"


@dataclass
class ReadPhoto:
    """One photo on its way into the index.

    Attributes:
        index: Its place in the source.
        row: Its row, without a vector until it is encoded.
        pixels: ``(3, P, P)`` float32 for the encoder; None if unreadable, if its content is known, or once encoded.
        reason: Why it is unreadable, or empty.
    """

    index: int
    row: dict[str, Any]
    pixels: np.ndarray | None = None
    reason: str = ""

    @property
    def known(self) -> bool:
        """Whether it is readable and needs no encoding: the index has the same content."""
        return self.pixels is None and not self.reason and "vector" not in self.row


class PhotoNames:
    """Keys, labels and places of a source's photos, as an index has them.

    Args:
        source: The photos.
    """

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self._keys = unique([printable(key) for key in source.keys])
        self.labels = [[]] * len(source) if source.labels is None else source.labels.lists()

    def key(self, index: int) -> str:
        """Key of a photo as text that any table can hold, another one for each photo."""
        return self._keys[index]

    def location(self, index: int) -> str:
        """Where a person finds a photo from any folder, as text that any table can hold."""
        location, place = printable(self.source.location(index)), self.source.place(index)
        if not isinstance(place, FilePlace):
            return location
        whole, named = printable(os.path.abspath(place.path)), printable(place.path)
        if place.offset == 0 and place.size < 0:  # not a member of an archive
            return whole
        return whole + location[len(named) :] if location.startswith(named) else location

    def label(self, index: int) -> str:
        """Labels of a photo joined by ``;``."""
        return ";".join(map(printable, self.labels[index]))


class PhotoReader(PhotoNames):
    """Reads photos of a source into rows.

    Args:
        source: The photos.
        fingerprint: Of the vectors, that is of their encoder and its precision.
        contents: Hashes of content that the index has already: such photos are not decoded.
        side: Short side to which they are reduced for the encoder; a thumbnail may be made of more pixels.
    """

    def __init__(self, source: ImageSource, fingerprint: str, contents: frozenset[str], side: int) -> None:
        super().__init__(source)
        self.fingerprint, self.contents, self.side = fingerprint, contents, side

    def notes(self) -> list[str]:
        """What is to be said of the vectors, a line each."""
        return []

    def unused(self) -> list[Skipped]:
        """Vectors that belong to no photo."""
        return []

    @abstractmethod
    def encoded(
        self, wanted: Sequence[tuple[int, str]], size: int, processes: "Processes"
    ) -> Iterator[list[ReadPhoto]]:
        """Photos with their vectors, ``size`` at a time; several processes share the batches.

        Args:
            wanted: Place in the source, and stamp, of each photo.
            size: Photos in a batch.
            processes: Each reads and encodes its share; only the first one is given the photos.
        """

    def _for_encoder(self, picture: np.ndarray) -> np.ndarray | None:
        """What the encoder takes; None where nothing is to be encoded."""
        return None

    def _read(self, index: int, stamp: str) -> ReadPhoto:
        photo = ReadPhoto(index, self._described(index, stamp))
        try:
            content = self.source.content(index)
            if content is not None:
                photo.row |= {"bytes": len(content), "content": content_hash(content)}
                if photo.row["content"] in self.contents:
                    return photo
                picture, shown, facts = self._decoded(content)
                photo.row |= facts_row(facts)
            else:
                shown = picture = self.source.read(index, max(self.side, THUMBNAIL_SIDE))
                photo.row |= {"bytes": picture.nbytes, "content": hash_of_pixels(picture)}
                if photo.row["content"] in self.contents:
                    return photo
        except UnreadableImage as error:
            photo.reason = error.reason
            return photo
        photo.row["thumbnail"] = seal(make_thumbnail(shown), photo.row["content"])
        photo.pixels = self._for_encoder(picture)
        return photo

    def _decoded(self, content: bytes) -> tuple[np.ndarray, np.ndarray, PhotoFacts]:
        """Pixels for the encoder, for the thumbnail (other ones where the encoder wants less), and the file's facts."""
        picture, facts = decode_with_facts(content, short_side=self.side)
        if self.side >= THUMBNAIL_SIDE:
            return picture, picture, facts
        return picture, decode_expendable(content, short_side=THUMBNAIL_SIDE), facts

    def _described(self, index: int, stamp: str) -> dict[str, Any]:
        key = self.key(index)
        place = self.source.place(index)
        file, offset = b"", 0
        if isinstance(place, FilePlace):
            file, offset = os.fsencode(os.path.realpath(place.path)), place.offset
        elif isinstance(place, RemotePlace):
            file, offset = place.address.encode("utf-8", "surrogateescape"), place.offset
        return {
            "id": photo_id(key),
            "key": key,
            "location": self.location(index),
            "label": self.label(index),
            "file": file,
            "offset": offset,
            "modified": _modified(file),
            "stamp": stamp,
            "encoder": self.fingerprint,
            **facts_row(PhotoFacts()),
        }


class EncodingReader(PhotoReader):
    """Reads photos and has an encoder make their vectors.

    Args:
        source: As for :class:`PhotoReader`.
        encoder: Makes the vectors.
        fingerprint: Likewise.
        contents: Likewise.
        side: Likewise.
        precision: In which the encoder computes.
    """

    def __init__(
        self,
        source: ImageSource,
        encoder: "Encoder",
        fingerprint: str,
        contents: frozenset[str],
        side: int,
        precision: "Precision" = "float32",
    ) -> None:
        super().__init__(source, fingerprint, contents, side)
        self.encoder, self.precision = encoder, precision

    def encoded(
        self, wanted: Sequence[tuple[int, str]], size: int, processes: "Processes"
    ) -> Iterator[list[ReadPhoto]]:
        """The photos in the given order."""
        batches = [wanted[start : start + size] for start in range(0, len(wanted), size)]
        threads = threads_for(self.source, processes.threads)
        read = read_ahead(lambda photo: self._read(*photo), processes.share(batches), threads)
        yield from processes.in_turn(map(self._encode, read), len(batches))

    def _encode(self, batch: list[ReadPhoto]) -> list[ReadPhoto]:
        """Put the encoder's vectors in the place of pixels."""
        photos = [photo for photo in batch if photo.pixels is not None]
        if not photos:
            return batch
        pixels = np.stack([photo.pixels for photo in photos if photo.pixels is not None])
        vectors = self.encoder.embed_pixels(pixels, precision=self.precision)
        for photo, vector, placed in zip(photos, vectors, have_direction(vectors, self.encoder), strict=True):
            photo.pixels = None
            if placed:
                photo.row["vector"] = vector
            else:
                photo.reason = NO_DIRECTION
        return batch

    def _for_encoder(self, picture: np.ndarray) -> np.ndarray:
        pixels: np.ndarray = self.encoder.prepare([picture], side=self.side, threads=1)[0]
        return pixels


def threads_for(source: ImageSource, threads: int) -> int:
    """Threads that read photos: more of them where they wait for a server most of the time."""
    is_remote = len(source) > 0 and isinstance(source.place(0), RemotePlace)
    return max(threads, AT_ONCE) if is_remote else threads


def read_ahead(read: Callable[[T], Read], batches: Sequence[Sequence[T]], threads: int) -> Iterator[list[Read]]:
    """What ``read`` makes of the items of each batch, in order; threads read a few batches ahead."""
    ahead = AHEAD * max(map(len, batches), default=1)
    items = chain.from_iterable(batches)
    with contextlib.closing(
        in_order(read, items, threads=threads, ahead=ahead, at_once=PIECE, name="s2r2-read")
    ) as found:
        for batch in batches:
            yield list(islice(found, len(batch)))


def have_direction(vectors: np.ndarray, encoder: "Encoder") -> np.ndarray:
    """Which of the vectors ``(n, D)`` can be searched: those of length 0 are near to nothing.

    Raises:
        NonFiniteError: Some are NaN or infinite.
    """
    bad = int((~np.isfinite(vectors).all(1)).sum())
    if bad:
        raise NonFiniteError(
            f"the encoder {encoder.name} makes no finite vectors for {bad} of {len(vectors)} photos: none is written; "
            "its weights are damaged, or its training diverged"
        )
    found: np.ndarray = np.linalg.norm(vectors, axis=1) > 0.5
    return found


def check_alike(encoder: "Encoder | StoredVectors", source: ImageSource, processes: "Processes") -> None:
    """Make sure that all processes embed the same photos with the same encoder.

    Raises:
        S2R2Error: They do not.
    """
    if processes.world_size > 1:
        processes.check_alike(f"the photos of {source.name}", source.fingerprint)
        processes.check_alike(f"the weights of {encoder.name}", encoder.fingerprint)


def make_thumbnail(picture: np.ndarray) -> bytes:
    """A JPEG of at most 192 pixels a side, made from pixels alone: nothing of the file's metadata is in it."""
    image = Image.fromarray(picture)
    scale = THUMBNAIL_SIDE / max(image.size)
    if scale < 1:
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.BICUBIC)
    return jpeg(image)


def hash_of_pixels(picture: np.ndarray) -> str:
    """What stands for the hash of a file where a source has pixels only."""
    digest = hashlib.blake2b(str(picture.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(picture).data)
    return digest.hexdigest()


def _modified(file: bytes) -> float | None:
    try:
        return os.stat(file).st_mtime if file and not is_remote(os.fsdecode(file)) else None
    except OSError:
        return None
