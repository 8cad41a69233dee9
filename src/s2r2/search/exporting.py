"""Vectors of photos as a table that any tool reads."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder, store_side
from s2r2.encoder.model import Output
from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images import ImageSource, Skipped, UnreadableImage, write_skipped
from s2r2.images.sources.names import printable
from s2r2.search.photo_reader import NO_DIRECTION, check_alike, have_direction, read_ahead
from s2r2.system.files import atomic_write

BATCHES_WRITTEN = 8
"""Batches that become a row group of the table: some hundred photos."""


@dataclass(frozen=True)
class Written:
    """How many vectors of which length were written, and which photos were not readable."""

    count: int
    dimensions: int
    skipped: Sequence[Skipped]


@dataclass(frozen=True)
class _Batch:
    """Vectors ``(n, D)`` of the readable ones among some photos, and the others."""

    indices: list[int]
    vectors: np.ndarray
    skipped: list[Skipped]


def write_embeddings(
    encoder: Encoder,
    source: ImageSource,
    out: str | Path,
    *,
    output: Output = "feature",
    batch_size: int = 64,
    processes: Processes = Processes(),  # noqa: B008 (frozen)
) -> Written:
    """Embed every photo of a source into a parquet table with the columns ``path``, ``label`` and ``vector``.

    Photos are read, embedded and written a few hundred at a time, so memory does not grow with their number.

    Args:
        encoder: Makes the vectors, rows of length 1.
        source: The photos.
        out: The table; beside it ``NAME.skipped.csv`` lists what was unreadable, if anything was.
        output: ``"feature"`` or ``"embedding"``.
        batch_size: Photos encoded at once.
        processes: They share the batches; the first one writes. Each calls this with the same arguments.

    Raises:
        S2R2Error: The output is unknown, nothing is readable, the table cannot be written, or processes differ in
            photos or encoder.
    """
    if output not in ("feature", "embedding"):
        raise ArgumentError(f"`output={output!r}` is not known: use feature or embedding")
    if batch_size < 1:
        raise ArgumentError(f"`batch_size={batch_size}`: give at least 1")
    out = processes.from_leader(lambda: _checked_table(Path(out)))
    check_alike(encoder, source, processes)
    batches = [range(start, min(start + batch_size, len(source))) for start in range(0, len(source), batch_size)]
    mine = _embedded(encoder, source, processes.share(batches), output, processes.threads)
    embedded = processes.in_turn(mine, len(batches))
    if not processes.leader:
        deque(embedded, maxlen=0)
        written: Written = processes.receive()
        return written
    written = _write(embedded, source, out, encoder.dimensions(output))
    return processes.from_leader(lambda: written)


def _checked_table(out: Path) -> Path:
    """The table's place, if a table may be written there.

    Raises:
        S2R2Error: It may not; said before the work.
    """
    name = printable(str(out))
    if out.suffix.lower() != ".parquet":
        raise ArgumentError(f"{name}: vectors are written as Parquet; give `out` a name that ends in .parquet")
    if out.is_dir():
        raise ArgumentError(f"{name} is a folder: give `out` the name of a file in it")
    if not os.access(out.absolute().parent, os.W_OK):
        raise ArgumentError(f"cannot write {name}: its folder does not exist or is read-only; choose another `out`")
    return out


def _embedded(
    encoder: Encoder, source: ImageSource, batches: Sequence[range], output: Output, threads: int
) -> Iterator[_Batch]:
    def read(index: int) -> np.ndarray | Skipped:
        try:
            picture = source.read(index, store_side(encoder.image_size))
        except UnreadableImage as error:
            return Skipped(source.keys[index], error.reason)
        return encoder.prepare([picture], threads=1)[0]

    for batch, photos in zip(batches, read_ahead(read, batches, threads), strict=True):
        indices = [index for index, photo in zip(batch, photos, strict=True) if not isinstance(photo, Skipped)]
        pixels = [photo for photo in photos if not isinstance(photo, Skipped)]
        vectors = np.empty((0, encoder.dimensions(output)), np.float32)
        skipped = [photo for photo in photos if isinstance(photo, Skipped)]
        if pixels:
            vectors = encoder.embed_pixels(np.stack(pixels), output=output)
            placed = have_direction(vectors, encoder)
            skipped += [Skipped(source.keys[i], NO_DIRECTION) for i in np.array(indices)[~placed]]
            indices, vectors = np.array(indices)[placed].tolist(), vectors[placed]
        yield _Batch(indices, vectors, skipped)


def _write(embedded: Iterator[_Batch], source: ImageSource, out: Path, dimensions: int) -> Written:
    schema = pa.schema([("path", pa.string()), ("label", pa.string()), ("vector", pa.list_(pa.float32(), dimensions))])
    skipped: list[Skipped] = list(source.problems)
    count = 0
    with atomic_write(out) as file, parquet.ParquetWriter(file, schema) as writer:
        while batches := list(islice(embedded, BATCHES_WRITTEN)):
            rows = [index for batch in batches for index in batch.indices]
            vectors = np.concatenate([batch.vectors for batch in batches])
            columns = {
                "path": [printable(source.location(index)) for index in rows],
                "label": [_label(source, index) for index in rows],
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimensions),
            }
            writer.write_table(pa.table(columns, schema=schema))
            skipped += [entry for batch in batches for entry in batch.skipped]
            count += len(rows)
        if count == 0:
            raise S2R2Error(f"none of the {len(source)} images of {printable(source.name)} can be read")
    listed = out.with_suffix(".skipped.csv")
    if skipped:
        write_skipped(listed, skipped)
    else:  # an earlier table's list says nothing of this one
        listed.unlink(missing_ok=True)
    return Written(count, dimensions, skipped)


def _label(source: ImageSource, index: int) -> str:
    return "" if source.labels is None else ";".join(map(printable, source.labels.of(index)))
