"""Searching an index."""

import contextlib
import functools
import numbers
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images import UnreadableImage, decode_expendable
from s2r2.images.decoding.decoder import Part
from s2r2.images.sources.names import printable
from s2r2.search.backends.base import SearchBackend, get_backend, usable_backend
from s2r2.search.backends.exact import top_k
from s2r2.search.filtering import EVERYTHING, Filter, matching
from s2r2.search.hit import Hit
from s2r2.search.original_file import original_file
from s2r2.search.query_image import Box, query_pixels
from s2r2.search.several_photos import check_count, most_similar
from s2r2.search.storage import layout
from s2r2.search.storage.catalog import Catalogue
from s2r2.search.storage.published import Published, decoding_side, read_published
from s2r2.search.storage.thumbnails import Thumbnails, why_gone
from s2r2.search.words.searching import SEEDS, WordSearch
from s2r2.system.files import checksum


class ImageIndex:
    """Photos and their vectors, as ``s2r2 index`` left them in a folder. Open one with :meth:`open`.

    An open index is a snapshot: an update by another process does not disturb it, and :attr:`stale` tells of it.
    Vectors and descriptions are mapped into memory. LanceDB is loaded for thumbnails and by its search backend, the
    encoder when an image is to be embedded.

    Attributes:
        folder: The index's folder.
        about: Which encoder made it, of what, when.
        catalogue: Vectors and descriptions of its N photos.
        backend_name: What finds the nearest vectors.
        words: Which photos fit words, if the index has vectors for that.
    """

    def __init__(self, folder: Path, about: Published, catalogue: Catalogue, backend: str | None = None) -> None:
        self.folder = folder
        self.about = about
        self.catalogue = catalogue
        self._thumbnails = Thumbnails(folder, about, catalogue)
        self.words = WordSearch(folder, about)
        self.backend_name = backend or usable_backend(about.searched_by)
        self._backend_class = get_backend(self.backend_name)
        if self.backend_name not in ("exact", about.searched_by):
            raise ArgumentError(
                f"the index in {folder} is made for the search backend {about.searched_by}: update it with "
                f"`backend={backend!r}` first, or search with `backend='exact'`"
            )

    @classmethod
    def open(cls, folder: str | Path, *, backend: str | None = None) -> "ImageIndex":
        """Open an index for searching.

        Args:
            folder: Where it is.
            backend: Name of the search backend: ``"exact"``, or by default the one for which the index is made.

        Raises:
            DamagedIndex: Its files are not what was written.
            S2R2Error: There is none, it was never finished, or it is not made for the backend.
        """
        folder = Path(folder)
        layout.check_local(folder)
        for _ in range(10):  # an update may replace the catalogue between the two reads
            about = read_published(folder)
            if about is None:
                raise S2R2Error(layout.no_index(folder))
            place = folder / about.generation
            try:
                catalogue = Catalogue.open(place, about.number, about.photos, about.dimensions, about.files)
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise layout.DamagedIndex(folder, error) from error
            return cls(folder, about, catalogue, backend)
        raise layout.DamagedIndex(folder, "it lacks its catalogue")

    def __len__(self) -> int:
        return len(self.catalogue)

    @property
    def vectors(self) -> np.ndarray:
        """``(N, D)`` float32 with rows of length 1, mapped from disk and checked when first asked for."""
        return self.catalogue.vectors

    @property
    def stale(self) -> bool:
        """Whether an update has replaced what this index shows."""
        return read_published(self.folder) != self.about

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
        if expected is None and self.about.files:
            raise S2R2Error(
                f"the index in {self.folder} was made from vectors, without the encoder, and is searched by its own "
                f"photos only: put the encoder into it with s2r2 index ENCODER DATA --index {self.folder}"
            )
        try:
            if expected is not None and checksum(copy) != expected:
                raise layout.DamagedIndex(self.folder, f"{layout.ENCODER} is not what was written")
        except FileNotFoundError as error:
            raise why_gone(self.folder, self.about) from error
        return load(copy)

    @property
    def _generation(self) -> Path:
        return self.folder / self.about.generation

    @functools.cached_property
    def backend(self) -> SearchBackend:
        """What finds the nearest vectors, once its files have been checked.

        Raises:
            DamagedIndex: They are not what was written.
        """
        place = self._generation / layout.search_folder(self.about.number)
        made = [name for name in self.about.files if name.startswith(f"{place.name}/")]
        try:
            for name in made if self.backend_name != "exact" else ():
                if checksum(self._generation / name) != self.about.files[name]:
                    raise layout.DamagedIndex(self.folder, f"{name} is not what was written")
        except OSError as error:
            raise layout.DamagedIndex(self.folder, error) from error
        return self._backend_class(self.vectors, place, self.about.backend_settings or {})

    def search(
        self,
        image: Any = (),
        k: int = 10,
        *,
        less: Sequence[Any] = (),
        words: Sequence[str] = (),
        less_words: Sequence[str] = (),
        box: Box | None = None,
        folder: str | None = None,
        label: str | None = None,
        where: Filter = EVERYTHING,
    ) -> list[Hit]:
        """Find the photos most similar to an image, or to several (:mod:`s2r2.search.several_photos`).

        Args:
            image: A path, file content as bytes, a PIL image, an array, or the key of a photo in the index (which is
                then left out of the answer). Text that names a file here is a path, whatever keys there are. Or a list
                of these: more like all of them.
            k: How many; fewer when there are fewer.
            less: Images, each as above, to be less like.
            words: Texts such as ``"a red car"``: the five photos that fit each best are to be like.
            less_words: Texts: the photos that fit them best are to be less like.
            box: Part of the image to search for: left, top, width, height in pixels. For a query of one image.
            folder: Only photos in this folder of the source, and below it.
            label: Only photos with this label.
            where: Only photos that it lets through, also by date, camera and size.

        Raises:
            S2R2Error: An image cannot be read, there is none or there are too many, k is no whole number from 1 on,
                the box lies outside the image, or the index lacks the facts that ``where`` asks for.
        """
        if isinstance(k, bool) or not isinstance(k, numbers.Integral) or k < 1:
            raise S2R2Error(f"-k {k}: ask for at least 1 photo, as a whole number")
        more = list(image) if isinstance(image, list | tuple) else [image]
        if box is not None and (len(more), len(less), len(words), len(less_words)) != (1, 0, 0, 0):
            raise ArgumentError(f"`box={','.join(map(str, box))}` is for a query of one photo: leave it out")
        check_count(len(more) + SEEDS * len(words), len(less) + SEEDS * len(less_words))
        vectors = [self._vector(one, box) for one in (*more, *less)]
        own = [row for row in map(self._row_of, (*more, *less)) if row is not None]
        mask = matching(self.catalogue, where, Filter(folder=folder, label=label))
        liked, disliked = (self.vectors[self.words.seeds_of(texts, mask)] for texts in (words, less_words))
        more_vectors, less_vectors = [*vectors[: len(more)], *liked], [*vectors[len(more) :], *disliked]
        return self._hits(self.nearest_to(more_vectors, less_vectors, k, mask, own)) if more_vectors else []

    def _vector(self, image: Any, box: Box | None = None) -> np.ndarray:
        own = self._row_of(image) if box is None else None
        vector: np.ndarray = self.embed(self.query_picture(image, box)) if own is None else self.vectors[own]
        return vector

    @functools.cached_property
    def side(self) -> int:
        """Short side in pixels to which photos are reduced for the encoder."""
        return decoding_side(self.about, self.encoder.image_size)

    def embed(self, picture: np.ndarray) -> np.ndarray:
        """Vector ``(D,)`` of a picture ``(H, W, 3)`` uint8, made as those of the index were."""
        from s2r2.search.precision import query_vector

        return query_vector(self.about, self.encoder, picture, self.side)

    def rank(
        self, vector: np.ndarray, k: int, *, mask: np.ndarray | None = None, leave_out: Sequence[int] = ()
    ) -> list[Hit]:
        """The k photos whose vectors have the largest cosine with ``vector``.

        Args:
            vector: ``(D,)`` of length 1.
            k: How many.
            mask: ``(N,)`` bool: which photos may be found; None for all.
            leave_out: Rows of photos that may not be found.
        """
        vector = np.asarray(vector, np.float32)
        if vector.shape != (self.about.dimensions,) or not np.isfinite(vector).all():
            raise ArgumentError(
                f"a query needs {self.about.dimensions} finite numbers, as the vectors of {self.folder} have"
            )
        return self._hits(self.nearest(vector, k, mask, leave_out))

    def _hits(self, found: tuple[np.ndarray, np.ndarray]) -> list[Hit]:
        pairs = zip(*found, strict=True)
        return [self.hit(rank, int(row), float(score)) for rank, (row, score) in enumerate(pairs, start=1)]

    def nearest_to(
        self,
        more: Sequence[np.ndarray],
        less: Sequence[np.ndarray],
        k: int,
        mask: np.ndarray | None = None,
        leave_out: Sequence[int] = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and similarities of the k photos that are most like several vectors, and least like others."""
        if len(more) == 1 and not less:
            return self.nearest(more[0], k, mask, leave_out)
        rows = None if mask is None else np.flatnonzero(mask)
        if mask is None and self.backend_name != "exact":  # what is like several is near one of them
            near = [self._nearest(vector, 4 * (k + len(leave_out)), None)[0] for vector in more]
            rows = np.unique(np.concatenate(near))
        return most_similar(self.vectors, more, less, k, rows, leave_out)

    def nearest(
        self, vector: np.ndarray, k: int, mask: np.ndarray | None = None, leave_out: Sequence[int] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and cosines of the k nearest photos; arguments as in :meth:`rank`. With a mask, search is exact."""
        rows, scores = self._nearest(vector, k + len(leave_out), mask)
        kept = ~np.isin(rows, np.asarray(leave_out, np.int64))
        return rows[kept][:k], scores[kept][:k]

    def _nearest(self, vector: np.ndarray, k: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        vector = np.asarray(vector, np.float32)
        if mask is not None:
            return top_k(self.vectors, vector, k, np.flatnonzero(mask))
        try:
            return self.backend.search(vector, k)
        except Exception:
            if not self.stale:
                raise
            return top_k(self.vectors, vector, k)  # an update has removed the backend's files; the vectors are mapped

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
            image = self.original(own) or self.thumbnail(own)
        elif isinstance(image, str) and not _is_there(image):
            self._no_photo(image)
        return query_pixels(image, side or self.side, box)

    def _no_photo(self, query: str) -> NoReturn:
        """Say why a query is neither a file nor a key."""
        what = "a folder" if os.path.isdir(query) else "neither an image file nor the key of a photo in the index"
        key = self.catalogue.table["key"][0].as_py() if len(self) else "red/1.jpg"
        raise S2R2Error(f"{printable(query)} is {what}: give one photo, or a key such as {key}")

    def picture(self, row: int, side: int | None = None, part: Part | None = None) -> np.ndarray:
        """A photo of the index, ``(H, W, 3)`` uint8: its file if that is what was indexed, else its thumbnail.

        A file that changed since, or that is now reached through a link to somewhere else, is not opened.

        Args:
            row: Its row.
            side: Short side to which it is reduced; None keeps its size.
            part: Only this part of it.
        """
        return self.picture_or_thumbnail(row, side, part)[0]

    def picture_or_thumbnail(self, row: int, side: int | None, part: Part | None = None) -> tuple[np.ndarray, bool]:
        """The same, and whether it is the file, not the thumbnail."""
        if content := self.original(row):
            with contextlib.suppress(UnreadableImage):  # by now: it was read when it was indexed
                return decode_expendable(content, short_side=side, part=part), True
        return decode_expendable(self.thumbnail(row), short_side=side, part=part), False

    def original(self, row: int) -> bytes | None:
        """The file that was indexed; None if it is not there, was changed since, or is reached through another link."""
        with contextlib.suppress(S2R2Error):  # also a store that cannot be reached now
            return original_file(self.catalogue, row)
        return None

    def thumbnail(self, row: int) -> bytes:
        """A small JPEG of a photo.

        Raises:
            IndexGone: An update has changed or removed the photo, or was cut short, or the index was deleted.
            DamagedIndex: It is not what was written.
        """
        return self._thumbnails.of(row)

    def row(self, identity: str) -> int | None:
        """The row of the photo with this id, or None."""
        return self.catalogue.row_of_id(identity)

    def hit(self, rank: int, row: int, score: float) -> Hit:
        """Describe the photo in ``row`` as a hit."""
        return Hit.of(self.catalogue, row, rank, score)

    def location(self, row: int) -> str:
        """Where a person finds a photo."""
        return self.catalogue.location(row)

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
