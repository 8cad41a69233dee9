"""Vectors of photos as one file that any tool reads: a table, a matrix or text."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder
from s2r2.encoder.model import Output
from s2r2.encoder.precision import AskedPrecision
from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images import ImageSource, Skipped, write_skipped
from s2r2.images.sources.names import printable
from s2r2.search.embedding_rows import Origin, batches_of, check_embedding, embedded, schema, tables, write_parquet
from s2r2.search.photo_reader import PhotoNames, check_alike
from s2r2.search.precision import precision_for
from s2r2.system.files import atomic_write, refuse_overwriting
from s2r2.system.terminal import csv_safe


@dataclass(frozen=True)
class Written:
    """How many vectors of which length were written, which photos were not readable, and why in which precision."""

    count: int
    dimensions: int
    skipped: Sequence[Skipped]
    note: str = ""


def write_embeddings(
    encoder: Encoder,
    source: ImageSource,
    out: str | Path,
    *,
    output: Output = "feature",
    batch_size: int = 64,
    precision: AskedPrecision = "float32",
    encoder_place: str | None = None,
    processes: Processes = Processes(),  # noqa: B008 (frozen)
) -> Written:
    """Embed every photo of a source into one file; its ending says in which form.

    ``.parquet`` is a table with the columns ``key``, ``path``, ``label``, ``content`` and ``vector``; ``.csv`` the
    same as text, with a column for each number of a vector; ``.npy`` a matrix, beside which ``NAME.photos.csv`` has
    the other columns in the order of its rows. Photos are read, embedded and written some thousand at a time, so
    memory does not grow with their number; only a matrix is held in memory until it is complete.

    Args:
        encoder: Makes the vectors, rows of length 1.
        source: The photos.
        out: The file; beside it ``NAME.skipped.csv`` lists what was unreadable, if anything was.
        output: ``"feature"`` or ``"embedding"``.
        batch_size: Photos encoded at once.
        precision: ``"float32"``, ``"bfloat16"``, or ``"auto"`` for bfloat16 where that is faster and ranks some of
            these photos as float32 does. The vectors are float32 in any case.
        encoder_place: What :func:`s2r2.load` takes to load the encoder again: a Parquet file states it, for an index
            that is made from it.
        processes: They share the batches; the first one writes. Each calls this with the same arguments.

    Raises:
        S2R2Error: The output is unknown, nothing is readable, the file cannot be written, or processes differ in
            photos or encoder.
    """
    check_embedding(output, batch_size, precision)
    out = processes.from_leader(lambda: _checked_file(Path(out), source))
    check_alike(encoder, source, processes)
    names = PhotoNames(source)
    batches = batches_of(range(len(source)), batch_size)
    choice = processes.from_leader(lambda: precision_for(precision, encoder, source, processes.threads, output))
    mine = embedded(encoder, source, names, processes.share(batches), output, processes.threads, choice.precision)
    all_in_turn = processes.in_turn(mine, len(batches))
    if not processes.leader:
        deque(all_in_turn, maxlen=0)
        written: Written = processes.receive()
        return written
    skipped = list(source.problems)
    dimensions = encoder.dimensions(output)
    rows = tables(all_in_turn, names, dimensions, skipped)
    origin = Origin.of(encoder, source, output, encoder_place, choice.precision)
    count = _FORMS[out.suffix.lower()](out, rows, origin, dimensions)
    list_skipped(out.with_suffix(".skipped.csv"), skipped)
    return processes.from_leader(lambda: Written(count, dimensions, skipped, choice.note))


def list_skipped(listed: Path, skipped: Sequence[Skipped]) -> None:
    """Write a list of unreadable photos; an empty one is none, and an earlier one says nothing of these photos."""
    if skipped:
        write_skipped(listed, skipped)
    else:
        listed.unlink(missing_ok=True)


def _checked_file(out: Path, source: ImageSource) -> Path:
    """The file's place, if one may be written there.

    Raises:
        S2R2Error: It may not; said before the work.
    """
    name = printable(str(out))
    if out.suffix.lower() not in _FORMS:
        raise ArgumentError(
            f"{name}: give `out` a name that ends in .parquet, .npy or .csv, or `shards` for a folder of parts"
        )
    if out.is_dir():
        raise ArgumentError(f"{name} is a folder: give `out` the name of a file in it")
    if not os.access(out.absolute().parent, os.W_OK):
        raise ArgumentError(f"cannot write {name}: its folder does not exist or is read-only; choose another `out`")
    for file in (out, out.with_suffix(".skipped.csv"), out.with_suffix(".photos.csv")):
        refuse_overwriting(file, source.tables)
    return out


def _write_parquet(out: Path, rows: Iterator[pa.Table], origin: Origin, dimensions: int) -> int:
    with atomic_write(out) as file:
        return _some_rows(write_parquet(file, rows, dimensions, origin), origin)


def _write_csv(out: Path, rows: Iterator[pa.Table], origin: Origin, dimensions: int) -> int:
    layout = pa.schema([*_texts(dimensions), *((f"v{n}", pa.float32()) for n in range(dimensions))])
    count = 0
    with atomic_write(out) as file, arrow_csv.CSVWriter(file, layout) as writer:
        for table in rows:
            vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, dimensions)
            writer.write_table(pa.table([*_safe(table), *map(pa.array, vectors.T)], schema=layout))
            count += len(table)
        return _some_rows(count, origin)


def _write_matrix(out: Path, rows: Iterator[pa.Table], origin: Origin, dimensions: int) -> int:
    """The names come first: a matrix in place has its rows named."""
    found = list(rows)
    count = _some_rows(sum(map(len, found)), origin)
    vectors = np.concatenate([table["vector"].combine_chunks().flatten().to_numpy() for table in found])
    layout = pa.schema(_texts(dimensions))
    with atomic_write(out.with_suffix(".photos.csv")) as file, arrow_csv.CSVWriter(file, layout) as writer:
        for table in found:
            writer.write_table(pa.table(_safe(table), schema=layout))
    with atomic_write(out) as file:
        np.save(file, vectors.reshape(count, dimensions))
    return count


_FORMS: dict[str, Callable[[Path, Iterator[pa.Table], Origin, int], int]] = {
    ".parquet": _write_parquet,
    ".npy": _write_matrix,
    ".csv": _write_csv,
}


def _texts(dimensions: int) -> list[pa.Field]:
    return list(schema(dimensions))[:-1]


def _safe(table: pa.Table) -> list[pa.Array]:
    """The columns of text; a spreadsheet runs none of it."""
    return [pa.array([csv_safe(cell) for cell in column.to_pylist()], pa.string()) for column in table.columns[:-1]]


def _some_rows(count: int, origin: Origin) -> int:
    if count == 0:
        raise S2R2Error(f"none of the {origin.photos} images of {origin.data} can be read")
    return count
