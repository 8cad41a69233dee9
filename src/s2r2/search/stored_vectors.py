"""Vectors that were made elsewhere: parts or a table of ``s2r2 embed``, of Ray, or of any program that writes Parquet.

A row needs a ``vector`` and the ``key`` or the ``path`` of its photo. Where it has the hash of the photo's ``content``,
a photo that has changed since is not given its vector; where it has a ``reason``, the photo was unreadable.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from s2r2.encoder import Encoder, load
from s2r2.encoder.precision import Precision
from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images.remote import is_remote
from s2r2.images.sources.names import printable
from s2r2.images.sources.skipped import read_skipped
from s2r2.search import shards
from s2r2.search.embedding_rows import Origin
from s2r2.search.storage.rows import photo_id
from s2r2.system.files import make_folder
from s2r2.system.wording import amount

ROWS_READ = 8192
LENGTH_ERROR = 1e-4
"""Vectors whose length differs more from 1 are normalized."""
_SHORTEST = 1e-6
_FILE = re.compile(r"^file:(?://)?(?=/)")  # as Spark writes paths
_ANY_IMAGE_SIZE = 128
"""Photos are reduced for an encoder of this size to 192 pixels, the size of a thumbnail."""


@dataclass(frozen=True)
class VectorRows:
    """Some rows of vectors.

    Attributes:
        names: Key or path of each photo.
        contents: Hash of its content; empty where none is stated.
        vectors: ``(n, D)`` float32, of length 1.
        normalized: How many were not of length 1.
    """

    names: list[str]
    contents: list[str]
    vectors: np.ndarray
    normalized: int


class StoredVectors:
    """The vectors in a file or in a folder of parts: checked once as they are opened, then read a piece at a time.

    Args:
        place: A Parquet file, or a folder of them.

    Attributes:
        name: Of the encoder that made the vectors.
        fingerprint: Of that encoder; of the vectors themselves where it is not known.
        precision: In which it computed them.
        image_size: Side in pixels of the encoder's input, or what stands for it where it is not known.
        by_path: Whether rows name their photos by path; else by key.
        encoder: The encoder, where it can be found; else None.
        why_no_encoder: Why it cannot.
        reasons: Why photos have no vector, by their names.
        normalized: How many vectors were not of length 1.
        ids: ``(N,)`` int64: hash of the name of each row.

    Raises:
        S2R2Error: There are no vectors, parts are missing or do not belong together, or a vector cannot be used.
    """

    def __init__(self, place: str | Path) -> None:
        self.place = Path(place)
        self.shown = printable(str(place))
        self.files = _files(self.place, self.shown)
        origin = self._origin()
        self.precision: Precision = origin.precision if origin is not None else "float32"
        self.encoder, self.why_no_encoder = self._find_encoder(origin)
        self.reasons: dict[str, str] = {}
        self._dimensions = 0
        self._check_rows()
        if self.encoder is not None:
            self.name, self.fingerprint = self.encoder.name, self.encoder.fingerprint
            self.image_size = self.encoder.image_size
            wanted = self.encoder.dimensions("feature")
            if self._dimensions != wanted:
                raise ArgumentError(
                    f"{self.shown} has vectors of {self._dimensions} numbers, {self.name} makes them of {wanted}: give "
                    "the `vectors` of one encoder"
                )
        elif origin is not None:
            self.name, self.fingerprint, self.image_size = origin.encoder, origin.fingerprint, origin.image_size
        else:
            self.name, self.fingerprint, self.image_size = (
                f"unknown, of {self.place.name}",
                self._digest(),
                _ANY_IMAGE_SIZE,
            )

    def dimensions(self, output: str = "feature") -> int:
        """Length of a vector."""
        return self._dimensions

    def __len__(self) -> int:
        return self._count

    def save(self, generation: Path) -> None:
        """Put a copy of the encoder into an index, if it was found."""
        if self.encoder is not None:
            self.encoder.save(generation)
        else:
            make_folder(generation)

    def rows(self) -> Iterator[VectorRows]:
        """All rows that have a vector, in the order of the files."""
        for path in self.files:
            for batch in _batches(path):
                yield self._read(batch, path)

    @cached_property
    def by_path(self) -> bool:  # noqa: D102 (an attribute of the class)
        return "key" not in parquet.read_schema(self.files[0]).names

    def _origin(self) -> Origin | None:
        """Where all files say that they come from; None if they do not say."""
        found: list[tuple[Path, Origin | None]] = []
        for path in self.files:
            try:
                schema = parquet.read_schema(path)
            except (pa.ArrowInvalid, OSError) as error:
                raise S2R2Error(
                    f"{printable(str(path))} cannot be read as Parquet: delete it and make it again"
                ) from error
            _check_columns(schema, path)
            found.append((path, Origin.read(schema)))
        (first, origin), *others = found
        for path, other in others:
            if (origin is None) != (other is None) or (origin and other and not origin.is_like(other)):
                raise ArgumentError(
                    f"{printable(str(path))} and {first.name} are of different encoders, precisions or "
                    "photos: give the `vectors` of one call of s2r2 embed"
                )
        if origin is not None and origin.output != "feature":
            raise ArgumentError(
                f"{self.shown} holds the projection head's embeddings, and an index holds features: make the "
                "`vectors` with s2r2 embed without --output"
            )
        return origin

    def _find_encoder(self, origin: Origin | None) -> tuple[Encoder | None, str]:
        """The copy beside the vectors, or what they say they were made with, if it is still the same."""
        copy = self.place / shards.ENCODER
        places = [str(copy)] if copy.exists() else []
        places += [origin.place] if origin is not None and origin.place else []
        why = "they do not say which encoder made them" if origin is None else f"{origin.encoder} was not kept"
        for place in places:
            try:
                encoder = load(place)
            except S2R2Error as error:
                why = str(error)
                continue
            if origin is None or encoder.fingerprint == origin.fingerprint:
                return encoder, ""
            why = f"{printable(place)} is another encoder now"
        return None, why

    def _check_rows(self) -> None:
        """Read all rows once: vectors must be usable, and each photo must have one only."""
        count, ids = 0, []
        self.normalized = 0
        for rows in self.rows():
            ids.append(np.fromiter(map(photo_id, rows.names), np.int64, len(rows.names)))
            count += len(rows.names)
            self.normalized += rows.normalized
        if count == 0:
            raise ArgumentError(f"{self.shown} holds no vectors: give `vectors` of at least one photo")
        self._count = count
        self.ids = np.concatenate(ids)
        sorted_ids = np.sort(self.ids)
        twice = sorted_ids[1:][sorted_ids[1:] == sorted_ids[:-1]]
        if len(twice):
            named = next(name for rows in self.rows() for name in rows.names if photo_id(name) == twice[0])
            raise ArgumentError(
                f"{self.shown} has more than one vector of {amount(len(np.unique(twice)), 'photo')}, such as {named}: "
                "give `vectors` with one row a photo"
            )
        listed = self.place.iterdir() if self.place.is_dir() else [self.place.with_suffix(".skipped.csv")]
        for path in listed:
            if (shards.SKIPPED.fullmatch(path.name) or not self.place.is_dir()) and path.exists():
                self.reasons |= {entry.key: entry.reason for entry in read_skipped(path.read_bytes())}

    def _digest(self) -> str:
        """What stands for the fingerprint of an encoder that is not known."""
        digest = hashlib.blake2b(digest_size=12)
        for rows in self.rows():
            digest.update("\0".join(rows.names).encode())
            digest.update(np.ascontiguousarray(rows.vectors).data)
        return digest.hexdigest()

    def _read(self, batch: pa.RecordBatch, path: Path) -> VectorRows:
        names = [printable(name) for name in _texts(batch, "path" if self.by_path else "key", path)]
        if self.by_path:
            names = [_FILE.sub("", name) for name in names]
            names = [name if is_remote(name) else os.path.abspath(name) for name in names]
        contents = _texts(batch, "content", path) if "content" in batch.schema.names else [""] * len(names)
        has_vector = np.asarray(batch["vector"].is_valid())
        if "reason" in batch.schema.names:
            reasons = batch["reason"].to_pylist()
            self.reasons |= {name: reason for name, reason in zip(names, reasons, strict=True) if reason}
            has_vector &= np.array([not reason for reason in reasons])
        kept = np.flatnonzero(has_vector)
        vectors = self._vectors(batch["vector"].take(pa.array(kept)), path)
        if len(kept) < len(names):
            names, contents = [names[n] for n in kept], [contents[n] for n in kept]
        return VectorRows(names, contents, *_of_length_1(vectors, names, path))

    def _vectors(self, column: Any, path: Path) -> np.ndarray:
        for length in pc.unique(pc.list_value_length(column)).to_pylist():
            self._dimensions = self._dimensions or length
            if length != self._dimensions or length == 0:
                raise ArgumentError(
                    f"{printable(str(path))} has vectors of {length} numbers, others have {self._dimensions}: give the "
                    "`vectors` of one encoder"
                )
        flat = np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32)
        return flat.reshape(len(column), self._dimensions)


def _of_length_1(vectors: np.ndarray, names: list[str], path: Path) -> tuple[np.ndarray, int]:
    """The vectors, normalized, and how many were not of length 1; those that are stay as they are, to the last bit."""
    lengths = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(~(lengths > _SHORTEST) | np.isinf(lengths))
    if len(bad):
        raise ArgumentError(
            f"{printable(str(path))}: the vector of {names[bad[0]]} is not finite or has length 0: give `vectors` "
            "without it, or with a reason in the column reason"
        )
    off = np.flatnonzero(np.abs(lengths - 1) > LENGTH_ERROR)
    if len(off):
        vectors = vectors.copy()
        vectors[off] /= lengths[off, None]
    return vectors, len(off)


def _files(place: Path, shown: str) -> list[Path]:
    """The file, or those of a folder in the order of their names; parts of ``s2r2 embed`` must all be there."""
    if not place.exists():
        raise ArgumentError(f"{shown} is not there: give `vectors` a Parquet file or a folder of parts")
    files = [place]
    if place.is_dir():
        files = sorted(p for p in place.glob("*.parquet") if not p.name.startswith((".", "_")))
    if not files:
        raise ArgumentError(f"{shown} holds no .parquet files: give `vectors` the folder that s2r2 embed wrote")
    numbered = [match for path in files if (match := shards.PART.fullmatch(path.name)) and place.is_dir()]
    for count in {int(match[2]) for match in numbered}:
        there = {int(match[1]) for match in numbered if int(match[2]) == count}
        missing = sorted(set(range(count)) - there)
        if missing:
            raise S2R2Error(
                f"{shown} lacks {len(missing)} of {count} parts, such as shard {missing[0]}: run its s2r2 embed again"
            )
    return files


def _check_columns(schema: pa.Schema, path: Path) -> None:
    kind: Any = schema.field("vector").type if "vector" in schema.names else pa.null()
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not pa.types.is_floating(kind.value_type) or not {"key", "path"} & set(schema.names):
        raise ArgumentError(
            f"{printable(str(path))} has the columns {', '.join(schema.names)}: `vectors` need the columns vector "
            "(lists of floats) and key or path"
        )


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    wanted = ("key", "path", "content", "reason", "vector")
    with parquet.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
        names = [name for name in wanted if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=ROWS_READ, columns=names, use_threads=False):
            vector = batch["vector"]
            if isinstance(vector, pa.ExtensionArray):
                batch = batch.set_column(names.index("vector"), "vector", vector.storage)
            yield batch


def _texts(batch: pa.RecordBatch, name: str, path: Path) -> list[str]:
    texts: list[str] = batch[name].to_pylist()
    if not all(isinstance(text, str) for text in texts):
        raise ArgumentError(f"{printable(str(path))}: a row has no {name} that is text: give `vectors` with it")
    return texts
