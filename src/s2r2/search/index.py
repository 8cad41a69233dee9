"""Searching an index."""

import contextlib
import functools
import numbers
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.images import UnreadableImage, decode_expendable
from s2r2.images.decoding.decoder import Part
from s2r2.images.places import FilePlace
from s2r2.images.sources.names import printable
from s2r2.search.backends import Search, SearchPlace, backend_names, find_backend
from s2r2.search.backends.exact import top_k
from s2r2.search.query_image import Box, query_pixels
from s2r2.search.storage import layout
from s2r2.search.storage.catalog import Catalogue
from s2r2.search.storage.row_files import RowFiles
from s2r2.search.storage.rows import Rows, is_whole
from s2r2.system.files import checksum


@dataclass(frozen=True)
class Hit:
    """A photo that a search found.

    Attributes:
        rank: 1 for the most similar.
        path: Where a person finds it: a path, or archive and member.
        score: Cosine of its vector and the query's, -1 to 1.
        label: Its labels joined by ``;``, or empty.
        key: Its key in the source.
        id: Its id in the index: 16 hexadecimal digits that stay the same as long as the key does.
    """

    rank: int
    path: str
    score: float
    label: str
    key: str
    id: str


class ImageIndex:
    """Photos and their vectors, as ``s2r2 index`` left them in a folder. Open one with :meth:`open`.

    An open index is a snapshot: an update by another process does not disturb it, and :attr:`stale` tells of it.
    Vectors and descriptions are mapped into memory; LanceDB is needed for thumbnails only (and for approximate search
    in very large indexes), the encoder only when an image is to be embedded. Both are loaded then.

    Attributes:
        folder: The index's folder.
        about: Which encoder made it, of what, when.
        catalogue: Vectors and descriptions of its N photos.
    """

    def __init__(self, folder: Path, about: layout.Published, catalogue: Catalogue) -> None:
        self.folder = folder
        self.about = about
        self.catalogue = catalogue
        self._search: Search | None = None  # None: exactly

    @classmethod
    def open(cls, folder: str | Path) -> "ImageIndex":
        """Open an index for searching.

        Raises:
            DamagedIndex: Its files are not what was written.
            S2R2Error: There is none, or it was never finished.
        """
        folder = Path(folder)
        layout.check_local(folder)
        for _ in range(10):  # an update may replace the catalogue between the two reads
            about = layout.read_published(folder)
            if about is None:
                raise S2R2Error(f"no index in {folder}: make one with s2r2 index ENCODER DATA --index {folder}")
            place = folder / about.generation
            try:
                catalogue = Catalogue.open(place, about.number, about.photos, about.dimensions, about.files)
                opened = cls(folder, about, catalogue)
                opened._open_backend()
                return opened
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise layout.DamagedIndex(folder, error) from error
        raise layout.DamagedIndex(folder, "it lacks its catalogue")

    def _open_backend(self) -> None:
        """Get the backend that the index was made with ready; unknown here, it leaves searches to the exact one."""
        about = self.about
        if about.approximate is None or about.backend not in backend_names():
            return
        for name, expected in about.files.items():
            if name.startswith("search-") and checksum(self._generation / name) != expected:
                raise layout.DamagedIndex(self.folder, f"{name} is not what was written")
        place = SearchPlace(self.catalogue, lambda: self._candidates, self._generation, about.number)
        self._search = find_backend(about.backend).open(place, about.approximate)

    def __len__(self) -> int:
        return len(self.catalogue)

    @property
    def vectors(self) -> np.ndarray:
        """``(N, D)`` float32 with rows of length 1, mapped from disk and checked when first asked for."""
        return self.catalogue.vectors

    @property
    def stale(self) -> bool:
        """Whether an update has replaced what this index shows."""
        return layout.read_published(self.folder) != self.about

    @functools.cached_property
    def encoder(self) -> Any:
        """The encoder that made the vectors, from the copy inside the index.

        Raises:
            DamagedIndex: The copy is not what was written.
            IndexGone: The index was deleted or replaced since it was opened.
        """
        from s2r2.encoder import load

        copy = self._generation / layout.ENCODER
        expected = self.about.files.get(layout.ENCODER)
        try:
            if expected is not None and checksum(copy) != expected:
                raise layout.DamagedIndex(self.folder, f"{layout.ENCODER} is not what was written")
        except FileNotFoundError as error:
            raise self._gone() from error
        return load(copy)

    @property
    def _generation(self) -> Path:
        return self.folder / self.about.generation

    @functools.cached_property
    def _rows(self) -> Rows:
        RowFiles(self._generation).check_for_reading(approximate=False)
        return Rows(self._generation / layout.ROWS, version=self.about.version)

    @functools.cached_property
    def _candidates(self) -> Rows:
        """The rows for approximate search, whose own files are checked first."""
        RowFiles(self._generation).check_for_reading(approximate=True)
        return self._rows

    def _gone(self) -> S2R2Error:
        """Why what was open is not there any more: replaced or deleted, or else damaged."""
        try:
            if self.stale:
                return layout.IndexGone(f"the index in {self.folder} was deleted or replaced: open it again")
            if RowFiles(self._generation).cut_short():
                return layout.IndexGone(f"an update of {self.folder} was cut short: run s2r2 index once more")
        except S2R2Error as error:
            return error
        return layout.DamagedIndex(self.folder, "files of its rows are missing or damaged")

    def search(
        self,
        image: Any,
        k: int = 10,
        *,
        box: Box | None = None,
        folder: str | None = None,
        label: str | None = None,
    ) -> list[Hit]:
        """Find the photos most similar to an image.

        Args:
            image: A path, file content as bytes, a PIL image, an array, or the key of a photo in the index (which is
                then left out of the answer). Text that names a file here is a path, whatever keys there are.
            k: How many; fewer when there are fewer.
            box: Part of the image to search for: left, top, width, height in pixels.
            folder: Only photos in this folder of the source, and below it.
            label: Only photos with this label.

        Raises:
            S2R2Error: The image cannot be read, k is no whole number from 1 on, or the box lies outside the image.
        """
        if isinstance(k, bool) or not isinstance(k, numbers.Integral) or k < 1:
            raise S2R2Error(f"-k {k}: ask for at least 1 photo, as a whole number")
        mask = self.catalogue.matching(folder, label)
        own = self._row_of(image)
        if own is not None and box is None:
            return self.rank(self.vectors[own], k, mask=mask, leave_out=own)
        return self.rank(self.embed(self.query_picture(image, box)), k, mask=mask, leave_out=own)

    @functools.cached_property
    def side(self) -> int:
        """Short side in pixels to which photos are reduced for the encoder."""
        return layout.decoding_side(self.about, self.encoder.image_size)

    def embed(self, picture: np.ndarray) -> np.ndarray:
        """Vector ``(D,)`` of a picture ``(H, W, 3)`` uint8, made as those of the index were."""
        vector: np.ndarray = self.encoder.embed_pixels(self.encoder.prepare([picture], side=self.side))[0]
        return vector

    def rank(
        self, vector: np.ndarray, k: int, *, mask: np.ndarray | None = None, leave_out: int | None = None
    ) -> list[Hit]:
        """The k photos whose vectors have the largest cosine with ``vector``.

        Args:
            vector: ``(D,)`` of length 1.
            k: How many.
            mask: ``(N,)`` bool: which photos may be found; None for all.
            leave_out: Row of a photo that may not be found.
        """
        vector = np.asarray(vector, np.float32)
        if vector.shape != (self.about.dimensions,) or not np.isfinite(vector).all():
            raise S2R2Error(
                f"a query needs {self.about.dimensions} finite numbers, as the vectors of {self.folder} have"
            )
        rows, scores = self.nearest(vector, k + (leave_out is not None), mask)
        chosen = rows != leave_out
        found = zip(rows[chosen][:k], scores[chosen][:k], strict=True)
        return [self.hit(rank, int(row), float(score)) for rank, (row, score) in enumerate(found, start=1)]

    def nearest(self, vector: np.ndarray, k: int, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rows and cosines of the k nearest photos: exact, or approximate where the index is large and unfiltered."""
        if self._search is not None and mask is None:
            try:
                return self._search(vector, k)
            except Exception:  # LanceDB has no narrower class: an update took its files away; the matrix is still here
                pass
        return top_k(self.vectors, vector, k, mask)

    def query_picture(self, image: Any, box: Box | None = None, side: int | None = None) -> np.ndarray:
        """What is searched for, as ``(H, W, 3)`` uint8: the image, or the part in the box.

        Args:
            image: As in :meth:`search`.
            box: Left, top, width and height in pixels of the whole image.
            side: Short side to which it is reduced; by default what the encoder's photos are reduced to.

        Raises:
            S2R2Error: The image cannot be read, or the box lies outside it.
        """
        own = self._row_of(image)
        if own is not None:
            image = self._content(own)
        elif isinstance(image, str) and not _is_there(image):
            self._no_photo(image)
        return query_pixels(image, side or self.side, box)

    def _no_photo(self, query: str) -> NoReturn:
        """Say why a query is neither a file nor a key."""
        what = "a folder" if os.path.isdir(query) else "neither an image file nor the key of a photo in the index"
        raise S2R2Error(f"{printable(query)} is {what}: give one photo, or a key such as {self._some_key()}")

    def _some_key(self) -> str:
        return str(self.catalogue.table["key"][0].as_py()) if len(self) else "red/1.jpg"

    def picture(self, row: int, side: int | None = None, part: Part | None = None) -> np.ndarray:
        """A photo of the index, ``(H, W, 3)`` uint8: its file if that is what was indexed, else its thumbnail.

        A file that changed since, or that is now reached through a link to somewhere else, is not opened.

        Args:
            row: Its row.
            side: Short side to which it is reduced; None keeps its size.
            part: Only this part of it.
        """
        try:
            return decode_expendable(self._content(row), short_side=side, part=part)
        except UnreadableImage:  # by now: it was read when it was indexed
            return decode_expendable(self.thumbnail(row), short_side=side, part=part)

    def _content(self, row: int) -> bytes:
        """The file that was indexed if it is still there, else the thumbnail."""
        from s2r2.search.photo_reader import content_hash

        cell = {name: self.catalogue.table[name][row].as_py() for name in ("file", "offset", "bytes", "content")}
        file = os.fsdecode(cell["file"])
        if file and os.path.realpath(file) == file:
            with contextlib.suppress(UnreadableImage):
                content = FilePlace(file, cell["offset"], cell["bytes"]).read()
                if content_hash(content) == cell["content"]:
                    return content
        return self.thumbnail(row)

    def thumbnail(self, row: int) -> bytes:
        """A small JPEG of a photo.

        Raises:
            IndexGone: An update has changed or removed the photo, or was cut short, or the index was deleted.
            DamagedIndex: It is not what was written.
        """
        content = self._thumbnail(row)
        if content is not None and is_whole(content, self.catalogue.table["content"][row].as_py()):
            return content
        if self.stale:
            raise layout.IndexGone(f"an update of {self.folder} has changed or removed this photo: open it again")
        why = "its rows lack a photo" if content is None else "a thumbnail is not what was written"
        raise layout.DamagedIndex(self.folder, why)

    def _thumbnail(self, row: int) -> bytes | None:
        try:
            found = self._rows.cell("thumbnail", int(self.catalogue.ids[row]), int(self.catalogue.row_ids[row]))
        except (S2R2Error, KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:  # LanceDB has no narrower class, and Rust's panics are no Exceptions
            raise self._gone() from error
        return None if found is None else bytes(found)

    def row(self, identity: str) -> int | None:
        """The row of the photo with this id, or None."""
        try:
            number = int(identity, 16)
        except ValueError:
            return None
        if number >> 63:
            return None
        found = int(self.catalogue.rows_of(np.array([number], np.int64))[0])
        return None if found < 0 else found

    def hit(self, rank: int, row: int, score: float) -> Hit:
        """Describe the photo in ``row`` as a hit."""
        cell = {name: self.catalogue.table[name][row].as_py() for name in ("id", "key", "label")}
        return Hit(rank, self.location(row), score, cell["label"], cell["key"], f"{cell['id']:016x}")

    def location(self, row: int) -> str:
        """Where a person finds a photo; format 2 kept it as seen from the folder in which ``s2r2 index`` ran."""
        location, file = (self.catalogue.table[name][row].as_py() for name in ("location", "file"))
        if not file or os.path.isabs(location):
            return str(location)
        _, member, name = location.partition("::")
        return printable(os.fsdecode(file)) + member + name

    def _row_of(self, image: Any) -> int | None:
        """The row of the photo whose key ``image`` is; a file of that name comes first."""
        if not isinstance(image, str) or _is_there(image):
            return None
        return self.catalogue.row_of_key(image)


def _is_there(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # a NUL
        return False
