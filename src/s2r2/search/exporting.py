"""Vectors of photos as a table that any tool reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from s2r2.encoder import Encoder, store_side
from s2r2.encoder.model import Output
from s2r2.errors import S2R2Error
from s2r2.files import atomic_write
from s2r2.images import ImageSource, Skipped, UnreadableImage, write_skipped


@dataclass(frozen=True)
class Written:
    """How many vectors of which length were written, and which photos were not readable."""

    count: int
    dimensions: int
    skipped: Sequence[Skipped]


def write_embeddings(
    encoder: Encoder, source: ImageSource, out: str | Path, *, output: Output = "feature", batch_size: int = 64
) -> Written:
    """Embed every photo of a source into a parquet table with the columns ``path``, ``label`` and ``vector``.

    Photos are read, embedded and written a few hundred at a time, so memory does not grow with their number.

    Args:
        encoder: Makes the vectors, rows of length 1.
        source: The photos.
        out: The table; beside it ``NAME.skipped.csv`` lists what was unreadable, if anything was.
        output: ``"feature"`` or ``"embedding"``.
        batch_size: Photos encoded at once.

    Raises:
        S2R2Error: The output is unknown, nothing is readable, or the table cannot be written.
    """
    out = Path(out)
    if output not in ("feature", "embedding"):
        raise S2R2Error(f"--output {output}: use feature or embedding")
    dimensions = encoder.dimensions(output)
    schema = pa.schema([("path", pa.string()), ("label", pa.string()), ("vector", pa.list_(pa.float32(), dimensions))])
    skipped: list[Skipped] = list(source.problems)
    count = 0
    with atomic_write(out) as file, parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, len(source), 512):
            pictures, rows = [], []
            for index in range(start, min(start + 512, len(source))):
                try:
                    pictures.append(source.read(index, store_side(encoder.image_size)))
                    rows.append(index)
                except UnreadableImage as error:
                    skipped.append(Skipped(source.keys[index], error.reason))
            vectors = encoder.embed(pictures, output=output, batch_size=batch_size)
            columns = {
                "path": [source.location(index) for index in rows],
                "label": [_label(source, index) for index in rows],
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimensions),
            }
            writer.write_table(pa.table(columns, schema=schema))
            count += len(rows)
        if count == 0:
            raise S2R2Error(f"none of the {len(source)} images of {source.name} can be read")
    if skipped:
        write_skipped(out.with_suffix(".skipped.csv"), skipped)
    return Written(count, dimensions, skipped)


def _label(source: ImageSource, index: int) -> str:
    return "" if source.labels is None else ";".join(source.labels.of(index))
