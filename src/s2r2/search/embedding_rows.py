"""Photos to rows of a table with their vectors: what ``s2r2 embed`` writes, whatever the form of its files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import IO, Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from s2r2.encoder import Encoder, store_side
from s2r2.encoder.model import Output
from s2r2.encoder.precision import Precision, check_precision
from s2r2.errors import ArgumentError
from s2r2.images import ImageSource, Skipped, UnreadableImage, decode_expendable
from s2r2.images.sources.names import printable
from s2r2.search.photo_reader import (
    NO_DIRECTION,
    THUMBNAIL_SIDE,
    PhotoNames,
    hash_of_pixels,
    have_direction,
    read_ahead,
    threads_for,
)
from s2r2.search.storage.rows import content_hash

ROW_GROUP = 4096
"""Rows that are written at once, about: memory grows with them, not with the photos."""
METADATA = b"s2r2"


@dataclass(frozen=True)
class Origin:
    """Where the vectors of a file come from; the file says it in its metadata.

    Attributes:
        encoder: Name of the encoder.
        fingerprint: Of the encoder.
        place: What :func:`s2r2.load` took to load it, if it is known.
        image_size: Side in pixels of its input.
        output: ``"feature"`` or ``"embedding"``.
        data: What was embedded.
        photos: How many photos the whole data has.
        listed: Hash of the keys of all of them.
        precision: In which the encoder computed.
    """

    encoder: str
    fingerprint: str
    place: str | None
    image_size: int
    output: str
    data: str
    photos: int
    listed: str
    precision: Precision = "float32"

    @classmethod
    def of(
        cls, encoder: Encoder, source: ImageSource, output: Output, place: str | None, precision: Precision
    ) -> "Origin":
        """That of the vectors that an encoder makes of a source's photos."""
        return cls(
            printable(encoder.name), encoder.fingerprint, place, encoder.image_size, output,
            printable(source.name), len(source), source.fingerprint, precision,
        )  # fmt: skip

    @classmethod
    def read(cls, schema: pa.Schema) -> "Origin | None":
        """That which a file states; None if it states none."""
        try:
            origin = cls(**json.loads((schema.metadata or {})[METADATA]))
            check_precision(origin.precision)
            return origin
        except (KeyError, TypeError, ValueError):
            return None

    def is_like(self, other: "Origin") -> bool:
        """Whether vectors of both belong together: the same photos were embedded in the same way."""
        mine, others = (
            (origin.fingerprint, origin.precision, origin.output, origin.listed) for origin in (self, other)
        )
        return mine == others

    def metadata(self) -> dict[bytes, bytes]:
        """What a file states."""
        return {METADATA: json.dumps(asdict(self), sort_keys=True).encode()}


@dataclass(frozen=True)
class Embedded:
    """Vectors ``(n, D)`` of the readable ones among some photos, hashes of their content, and the others."""

    indices: list[int]
    contents: list[str]
    vectors: np.ndarray
    skipped: list[Skipped]


def check_embedding(output: str, batch_size: int, precision: str = "float32", *, apart: bool = False) -> None:
    """Refuse arguments that cannot be, before the work.

    Args:
        output: Which vectors.
        batch_size: Photos encoded at once.
        precision: In which the encoder computes.
        apart: Whether other processes make vectors beside these, and know nothing of this one.

    Raises:
        S2R2Error: One cannot.
    """
    if output not in ("feature", "embedding"):
        raise ArgumentError(f"`output={output!r}` is not known: use feature or embedding")
    if batch_size < 1:
        raise ArgumentError(f"`batch_size={batch_size}`: give at least 1")
    check_precision(precision)
    if apart and precision == "auto":
        raise ArgumentError("`precision='auto'` may differ from part to part: give float32 or bfloat16 for all of them")


def batches_of(photos: range, size: int) -> list[range]:
    """Numbers of photos, ``size`` at a time."""
    return [photos[start : start + size] for start in range(0, len(photos), size)]


def embedded(
    encoder: Encoder,
    source: ImageSource,
    names: PhotoNames,
    batches: Sequence[range],
    output: Output,
    threads: int,
    precision: Precision = "float32",
) -> Iterator[Embedded]:
    """Read and embed photos as an index does, a batch at a time; threads read ahead."""
    side = store_side(encoder.image_size)

    def read(index: int) -> tuple[str, np.ndarray] | Skipped:
        try:
            content = source.content(index)
            if content is None:
                picture = source.read(index, max(side, THUMBNAIL_SIDE))
            else:
                picture = decode_expendable(content, short_side=side)
        except UnreadableImage as error:
            return Skipped(names.key(index), error.reason)
        found = hash_of_pixels(picture) if content is None else content_hash(content)
        return found, encoder.prepare([picture], threads=1)[0]

    for batch, photos in zip(batches, read_ahead(read, batches, threads_for(source, threads)), strict=True):
        readable = [(i, *photo) for i, photo in zip(batch, photos, strict=True) if not isinstance(photo, Skipped)]
        skipped = [photo for photo in photos if isinstance(photo, Skipped)]
        vectors = np.empty((0, encoder.dimensions(output)), np.float32)
        if readable:
            pixels = np.stack([pixels for _, _, pixels in readable])
            vectors = encoder.embed_pixels(pixels, output=output, precision=precision)
            placed = have_direction(vectors, encoder)
            skipped += [Skipped(names.key(readable[n][0]), NO_DIRECTION) for n in np.flatnonzero(~placed)]
            readable, vectors = [readable[n] for n in np.flatnonzero(placed)], vectors[placed]
        yield Embedded([i for i, _, _ in readable], [content for _, content, _ in readable], vectors, skipped)


def schema(dimensions: int, metadata: Mapping[bytes, bytes] | None = None) -> pa.Schema:
    """Columns of a row: see docs/embeddings.md."""
    texts = [(name, pa.string()) for name in ("key", "path", "label", "content")]
    return pa.schema([*texts, ("vector", pa.list_(pa.float32(), dimensions))], metadata)


def tables(
    batches: Iterator[Embedded], names: PhotoNames, dimensions: int, skipped: list[Skipped]
) -> Iterator[pa.Table]:
    """The rows of some thousand photos at a time; what is unreadable among them is added to ``skipped``."""
    layout = schema(dimensions)
    while some := _some(batches):
        skipped += [entry for batch in some for entry in batch.skipped]
        rows = [index for batch in some for index in batch.indices]
        vectors = np.concatenate([batch.vectors for batch in some])
        columns: dict[str, Any] = {
            "key": [names.key(index) for index in rows],
            "path": [printable(names.source.location(index)) for index in rows],
            "label": [names.label(index) for index in rows],
            "content": [content for batch in some for content in batch.contents],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimensions),
        }
        yield pa.table(columns, schema=layout)


def _some(batches: Iterator[Embedded]) -> list[Embedded]:
    """The next batches, up to about a row group."""
    first = next(batches, None)
    if first is None:
        return []
    size = max(1, len(first.indices) + len(first.skipped))
    return [first, *islice(batches, max(0, ROW_GROUP // size - 1))]


def write_parquet(file: IO[bytes], rows: Iterator[pa.Table], dimensions: int, origin: Origin) -> int:
    """Write rows as Parquet; returns how many."""
    layout = schema(dimensions, origin.metadata())
    count = 0
    with parquet.ParquetWriter(file, layout, use_dictionary=["label"]) as writer:
        for table in rows:
            writer.write_table(table.replace_schema_metadata(layout.metadata))
            count += len(table)
    return count
