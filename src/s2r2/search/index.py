"""Searching an index: exact, over vectors that are mapped from disk."""

import functools
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from s2r2.errors import S2R2Error

CATALOGUE = "catalogue.arrow"
DESCRIPTION = "index.json"


@dataclass(frozen=True)
class Hit:
    """A photo that a search found.

    Attributes:
        rank: 1 for the most similar.
        path: Where a person finds it: a path, or archive and member.
        score: Cosine of its vector and the query's.
        label: Its labels joined by ``;``, or empty.
        key: Its key in the source.
        id: Its number in the index.
    """

    rank: int
    path: str
    score: float
    label: str
    key: str
    id: int


class ImageIndex:
    """Photos and their vectors, as ``s2r2 index`` left them in a folder. Open one with :meth:`open`.

    Reading needs neither LanceDB nor the encoder until an image is to be embedded: vectors, keys and thumbnails come
    from one Arrow file, mapped into memory and replaced as a whole by the next update.

    Attributes:
        folder: The index's folder.
        about: Which encoder made it, of what, when.
    """

    def __init__(self, folder: Path, table: pa.Table, about: dict[str, Any]) -> None:
        self.folder = folder
        self.about = about
        self._table = table
        vectors = table["vector"].combine_chunks()
        self.vectors: np.ndarray = np.asarray(vectors.flatten()).reshape(len(table), -1)

    @classmethod
    def open(cls, folder: str | Path) -> "ImageIndex":
        """Open an index for searching.

        Raises:
            S2R2Error: There is none, or it was never finished.
        """
        folder = Path(folder)
        try:
            about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            with pa.memory_map(str(folder / CATALOGUE)) as file:
                table = pa.ipc.open_file(file).read_all()
        except FileNotFoundError:
            raise S2R2Error(f"no index in {folder}: make one with s2r2 index ENCODER DATA --store {folder}") from None
        except (OSError, ValueError, pa.ArrowException) as error:
            raise S2R2Error(f"the index in {folder} is damaged ({error}): run s2r2 index again") from error
        return cls(folder, table, about)

    def __len__(self) -> int:
        return len(self._table)

    @functools.cached_property
    def encoder(self) -> Any:
        """The encoder that made the vectors, from the copy inside the index."""
        from s2r2.encoder import load

        return load(self.folder / "encoder.safetensors")

    def search(self, image: Any, k: int = 10, *, box: tuple[int, int, int, int] | None = None) -> list[Hit]:
        """Find the photos most similar to an image.

        Args:
            image: A path, a PIL image, an array, or the key of a photo in the index (which is then left out).
            k: How many; fewer when the index is smaller.
            box: Part of the image to search for: left, top, width, height in pixels.

        Raises:
            S2R2Error: The image cannot be read, k is below 1, or the box lies outside the image.
        """
        if k < 1:
            raise S2R2Error(f"-k {k}: ask for at least 1 photo")
        self._refuse_unknown(image)
        own = self._row(image) if box is None else None
        if own is not None:
            return self.rank(self.vectors[own], k, leave_out=own)
        return self.rank(self.encoder.embed(self.query_picture(image, box))[0], k)

    def rank(self, vector: np.ndarray, k: int, *, leave_out: int | None = None) -> list[Hit]:
        """The k photos whose vectors have the largest cosine with ``vector`` ``(F,)`` of length 1."""
        scores = self.vectors @ vector.astype(np.float32)
        if leave_out is not None:
            scores[leave_out] = -np.inf
        k = min(k, len(scores) - (leave_out is not None))
        best = np.argpartition(-scores, k - 1)[:k] if k else np.empty(0, np.int64)
        best = best[np.lexsort((best, -scores[best]))]
        return [self._hit(rank, int(row), float(scores[row])) for rank, row in enumerate(best, start=1)]

    def query_picture(self, image: Any, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """What is searched for, as ``(H, W, 3)`` uint8: the image, or the part in the box.

        Raises:
            S2R2Error: The image cannot be read, or the box lies outside it.
        """
        from s2r2.encoder.images import load_image

        own = self._row(image)
        picture = np.array(Image.open(io.BytesIO(self.thumbnail(own)))) if own is not None else load_image(image)
        if box is None:
            return picture
        left, top, width, height = box
        rows, columns = picture.shape[:2]
        if min(left, top) < 0 or min(width, height) < 1 or left + width > columns or top + height > rows:
            raise S2R2Error(f"--box {left},{top},{width},{height} lies outside the image of {columns} x {rows} pixels")
        return picture[top : top + height, left : left + width]

    def key(self, row: int) -> str:
        """The key of a photo, by its number in the index."""
        return str(self._table["key"][row].as_py())

    def thumbnail(self, row: int) -> bytes:
        """A small JPEG of a photo, by its number in the index."""
        return bytes(self._table["thumbnail"][row].as_py())

    def _row(self, image: Any) -> int | None:
        """The number of the photo whose key ``image`` is; a file of that name comes first."""
        if not isinstance(image, str) or Path(image).exists():
            return None
        return self._rows.get(image)

    def _refuse_unknown(self, image: Any) -> None:
        if isinstance(image, str | Path) and not Path(image).exists() and str(image) not in self._rows:
            example = next(iter(self._rows), "")
            raise S2R2Error(
                f"no file {image}, and no photo of that key in {self.folder} (its keys look like {example!r})"
            )

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self._table["key"].to_pylist())}

    def _hit(self, rank: int, row: int, score: float) -> Hit:
        cell = {name: self._table[name][row].as_py() for name in ("key", "location", "label")}
        return Hit(rank, cell["location"], score, cell["label"], cell["key"], row)
