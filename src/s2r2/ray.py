"""Photos to vectors inside other engines: Ray Data, Spark, a pool of processes. None of them is imported here."""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from s2r2.encoder import Encoder, load
from s2r2.encoder.model import Output
from s2r2.encoder.precision import Precision
from s2r2.errors import ArgumentError
from s2r2.images import ImageSource, UnreadableImage, decode_expendable
from s2r2.images.places import Stamp, place_of
from s2r2.search.embedding_rows import batches_of, check_embedding, embedded
from s2r2.search.photo_reader import PhotoNames
from s2r2.search.storage.rows import content_hash


class Embedder:
    """Embeds batches of photos, given as bytes or as paths: a callable for ``map_batches`` of Ray Data.

        dataset.map_batches(s2r2.ray.Embedder, fn_constructor_args=("runs/mine",), batch_size=64, compute=pool)

    A batch is a mapping of columns (of arrays or lists), a pandas ``DataFrame`` or a pyarrow ``Table``, and so is the
    result. Of a photo the column ``bytes`` holds the file, or else ``path`` says where it is. ``bytes`` is left out of
    the result, all other columns stay, and three are new: ``content`` (hash of the file), ``vector`` (of length 1) and
    ``reason``: empty, or why a photo is unreadable. Such a photo raises nothing: its vector is null in a ``Table``,
    ``None`` in a ``DataFrame``, and all NaN in a mapping, where vectors are an array ``(n, D)``.

    A process loads the encoder at the first call and keeps it, so an ``Embedder`` travels as a few words, as often as
    an engine likes.

    Args:
        encoder: What :func:`s2r2.load` takes; every machine must find it under this name.
        output: ``"feature"`` or ``"embedding"``.
        batch_size: Photos encoded at once; a batch that is larger is encoded in pieces.
        device: As for :func:`s2r2.load`.
        threads: That read and decode photos beside the encoder.
        precision: ``"float32"`` or ``"bfloat16"``, the same in every process.
    """

    def __init__(
        self,
        encoder: str | Path,
        *,
        output: Output = "feature",
        batch_size: int = 64,
        device: str = "auto",
        threads: int = 1,
        precision: Precision = "float32",
    ) -> None:
        check_embedding(output, batch_size, precision, apart=True)
        if threads < 1:
            raise ArgumentError(f"`threads={threads}`: give at least 1")
        self.name = str(encoder)
        self.output, self.batch_size, self.device, self.threads = output, batch_size, device, threads
        self.precision = precision

    @property
    def encoder(self) -> Encoder:
        """The encoder, loaded when this process first asks for it."""
        return _loaded(self.name, self.device)

    def __call__(self, batch: Any) -> Any:
        """Embed a batch; returns one of the same kind.

        Raises:
            S2R2Error: It has neither the column ``bytes`` nor ``path``, or the encoder cannot be loaded.
        """
        columns = _columns(batch)
        given = next((name for name in ("bytes", "path") if name in columns), None)
        if given is None:
            raise ArgumentError(f"a batch has the columns {', '.join(columns)}: give it bytes or path")
        photos = _Photos(columns[given], given == "path")
        encoder = self.encoder
        vectors = np.full((len(photos), encoder.dimensions(self.output)), np.nan, np.float32)
        contents, reasons = [""] * len(photos), [""] * len(photos)
        batches = batches_of(range(len(photos)), self.batch_size)
        for found in embedded(encoder, photos, PhotoNames(photos), batches, self.output, self.threads, self.precision):
            vectors[found.indices] = found.vectors
            for index, content in zip(found.indices, found.contents, strict=True):
                contents[index] = content
            for entry in found.skipped:
                reasons[int(entry.key)] = entry.reason
        return _like(batch, {"content": contents, "vector": vectors, "reason": reasons})


@lru_cache(maxsize=2)
def _loaded(name: str, device: str) -> Encoder:
    return load(name, device=device)


class _Photos(ImageSource):
    """The photos of a batch, by their numbers."""

    def __init__(self, given: Sequence[Any], are_paths: bool) -> None:
        super().__init__("the batch", [str(number) for number in range(len(given))], None, identity="batch")
        self._given, self._are_paths = given, are_paths

    def content(self, index: int) -> bytes:
        """The file."""
        given = self._given[index]
        if given is None or given != given:  # pandas has NaN for what is missing
            raise UnreadableImage("nothing is given of it")
        return place_of(os.fspath(given), os.getcwd()).read() if self._are_paths else bytes(given)

    def read(self, index: int, short_side: int | None = None) -> np.ndarray:
        """Its pixels."""
        return decode_expendable(self.content(index), short_side=short_side)

    def stamp(self, index: int) -> Stamp:
        """A hash of the file."""
        return (content_hash(self.content(index)),)


def _columns(batch: Any) -> dict[str, Any]:
    """Columns of photos by name, as sequences of bytes or text."""
    if hasattr(batch, "column_names"):  # pyarrow
        return {name: batch[name].to_pylist() if name in ("bytes", "path") else () for name in batch.column_names}
    names = list(batch)
    return {name: list(batch[name]) if name in ("bytes", "path") else () for name in names}


def _like(batch: Any, new: dict[str, Any]) -> Any:
    """The batch without ``bytes`` and with new columns, as what it was."""
    vectors, missing = new["vector"], np.array([bool(reason) for reason in new["reason"]], bool)
    if hasattr(batch, "column_names"):
        import pyarrow as pa

        flat, width = pa.array(vectors.reshape(-1)), vectors.shape[1]
        new |= {"vector": pa.FixedSizeListArray.from_arrays(flat, width, mask=pa.array(missing))}
        kept = {name: batch[name] for name in batch.column_names if name != "bytes"}
        return pa.table(kept | new)
    if hasattr(batch, "assign"):  # pandas
        rows = [None if gone else vector for vector, gone in zip(vectors, missing, strict=True)]
        return batch.drop(columns="bytes", errors="ignore").assign(**new | {"vector": rows})
    texts = {name: np.array(new[name], object) for name in ("content", "reason")}
    return {name: column for name, column in batch.items() if name != "bytes"} | new | texts
