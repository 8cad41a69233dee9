"""Searching an index."""

import functools
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from s2r2.errors import S2R2Error
from s2r2.search import layout
from s2r2.search.approximate import search_approximately
from s2r2.search.catalogue import Catalogue
from s2r2.search.exact import top_k
from s2r2.search.rows import Rows

Box = tuple[int, int, int, int]


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

    @classmethod
    def open(cls, folder: str | Path) -> "ImageIndex":
        """Open an index for searching.

        Raises:
            S2R2Error: There is none, it was never finished, or it is damaged.
        """
        folder = Path(folder)
        layout.check_local(folder)
        for _ in range(10):  # an update may replace the catalogue between the two reads
            about = layout.read_published(folder)
            if about is None:
                raise S2R2Error(f"no index in {folder}: make one with s2r2 index ENCODER DATA --store {folder}")
            try:
                return cls(folder, about, Catalogue.open(folder / about.fingerprint, about.number))
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
                raise S2R2Error(f"the index in {folder} is damaged ({error}): use s2r2 index --rebuild") from error
        raise S2R2Error(f"the index in {folder} lacks its catalogue: use s2r2 index --rebuild")

    @classmethod
    def build(cls, encoder: Any, source: Any, folder: str | Path, **options: Any) -> "ImageIndex":
        """Make or update an index and open it; see :func:`s2r2.search.update_index` for the arguments."""
        from s2r2.search.updating import update_index

        return update_index(encoder, source, folder, **options).index

    def __len__(self) -> int:
        return len(self.catalogue)

    @property
    def vectors(self) -> np.ndarray:
        """``(N, D)`` float32 with rows of length 1, mapped from disk."""
        return self.catalogue.vectors

    @property
    def stale(self) -> bool:
        """Whether an update has replaced what this index shows."""
        return layout.read_published(self.folder) != self.about

    @functools.cached_property
    def encoder(self) -> Any:
        """The encoder that made the vectors, from the copy inside the index."""
        from s2r2.encoder import load

        return load(self.folder / self.about.fingerprint / layout.ENCODER)

    @functools.cached_property
    def _rows(self) -> Rows:
        return Rows(self.folder / self.about.fingerprint / "lance")

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
                then left out of the answer).
            k: How many; fewer when there are fewer.
            box: Part of the image to search for: left, top, width, height in pixels.
            folder: Only photos in this folder of the source, and below it.
            label: Only photos with this label.

        Raises:
            S2R2Error: The image cannot be read, k is below 1, or the box lies outside the image.
        """
        if k < 1:
            raise S2R2Error(f"-k {k}: ask for at least 1 photo")
        mask = self.catalogue.matching(folder, label)
        own = self._row_of(image)
        if own is not None and box is None:
            return self.rank(self.vectors[own], k, mask=mask, leave_out=own)
        return self.rank(self.embed(self.query_picture(image, box)), k, mask=mask, leave_out=own)

    def embed(self, picture: np.ndarray) -> np.ndarray:
        """Vector ``(D,)`` of a picture ``(H, W, 3)`` uint8, made as those of the index were."""
        from s2r2.images.decoding import reduce_array
        from s2r2.search.reading import decoding_side

        return self.encoder.embed(reduce_array(picture, decoding_side(self.encoder)))[0]

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
        rows, scores = self.nearest(np.asarray(vector, np.float32), k + (leave_out is not None), mask)
        chosen = rows != leave_out
        found = zip(rows[chosen][:k], scores[chosen][:k], strict=True)
        return [self.hit(rank, int(row), float(score)) for rank, (row, score) in enumerate(found, start=1)]

    def nearest(self, vector: np.ndarray, k: int, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rows and cosines of the k nearest photos: exact, or approximate where the index is large and unfiltered."""
        settings = self.about.approximate
        if settings is not None and mask is None:
            try:
                return search_approximately(self._rows, self.catalogue, settings, vector, k)
            except Exception:  # LanceDB has no narrower class: an update took its files away; the matrix is still here
                pass
        return top_k(self.vectors, vector, k, mask)

    def query_picture(self, image: Any, box: Box | None = None) -> np.ndarray:
        """What is searched for, as ``(H, W, 3)`` uint8: the image, or the part in the box.

        Raises:
            S2R2Error: The image cannot be read, or the box lies outside it.
        """
        from s2r2.encoder.images import load_image
        from s2r2.images import UnreadableImage, decode

        own = self._row_of(image)
        if own is not None:
            picture = self.picture(own)
        elif isinstance(image, bytes):
            try:
                picture = decode(image)
            except UnreadableImage as error:
                raise S2R2Error(f"the image cannot be read: {error.reason}") from error
        else:
            picture = load_image(image)
        return picture if box is None else _part(picture, box)

    def picture(self, row: int) -> np.ndarray:
        """A photo of the index, ``(H, W, 3)`` uint8: its file if that is what was indexed, else its thumbnail.

        A file that changed since, or that is now reached through a link to somewhere else, is not opened.
        """
        from s2r2.images import UnreadableImage, decode
        from s2r2.images.sources import Slice, read_slice
        from s2r2.search.reading import content_hash

        cell = {name: self.catalogue.table[name][row].as_py() for name in ("file", "offset", "bytes", "content")}
        file = os.fsdecode(cell["file"])
        if file and os.path.realpath(file) == file:
            try:
                content = read_slice(Slice(file, cell["offset"], cell["bytes"]))
                if content_hash(content) == cell["content"]:
                    return decode(content)
            except UnreadableImage:
                pass
        return np.array(Image.open(io.BytesIO(self.thumbnail(row))).convert("RGB"))

    def thumbnail(self, row: int) -> bytes:
        """A small JPEG of a photo.

        Raises:
            S2R2Error: An update has removed the photo.
        """
        content = self._rows.cell("thumbnail", int(self.catalogue.ids[row]), int(self.catalogue.row_ids[row]))
        if content is None:
            raise S2R2Error(f"an update of {self.folder} has removed this photo: open the index again")
        return bytes(content)

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
        cell = {name: self.catalogue.table[name][row].as_py() for name in ("id", "key", "location", "label")}
        return Hit(rank, cell["location"], score, cell["label"], cell["key"], f"{cell['id']:016x}")

    def _row_of(self, image: Any) -> int | None:
        """The row of the photo whose key ``image`` is; a file of that name comes first."""
        if not isinstance(image, str) or Path(image).exists():
            return None
        return self.catalogue.row_of_key(image)


def _part(picture: np.ndarray, box: Box) -> np.ndarray:
    left, top, width, height = box
    rows, columns = picture.shape[:2]
    if min(left, top) < 0 or min(width, height) < 1 or left + width > columns or top + height > rows:
        raise S2R2Error(f"--box {left},{top},{width},{height} lies outside the image of {columns} x {rows} pixels")
    return picture[top : top + height, left : left + width]
