"""A second index beside the first: the same photos and thumbnails, their vectors multiplied by a matrix."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from s2r2._version import __version__
from s2r2.encoder import Encoder
from s2r2.encoder.precision import vectors_fingerprint
from s2r2.errors import ArgumentError, S2R2Error
from s2r2.search.index import ImageIndex
from s2r2.search.publishing import backend_for, names_in_use, write_for_searches
from s2r2.search.storage import layout
from s2r2.search.storage.published import Published, in_force
from s2r2.search.storage.row_files import RowFiles
from s2r2.search.storage.rows import Rows
from s2r2.system.files import make_folder, sync_folder, why_not_written, write_bytes
from s2r2.system.locking import locked


def write_refined_index(index: ImageIndex, encoder: Encoder, matrix: np.ndarray, out: str | Path) -> Published:
    """Write an index of the same photos for an encoder whose features are those of the first, times a matrix.

    Nothing is read or embedded again: rows with their thumbnails are copied, and get the new vectors. As with
    ``s2r2 index --rebuild`` what is in ``out`` stays in force until the new one is complete. Marks are copied as well,
    unless ``out`` has some.

    Args:
        index: The first index.
        encoder: The encoder with the head inside.
        matrix: ``(D, D)``: a vector ``x`` becomes ``matrix @ x``, normalized.
        out: Folder of the second index.

    Raises:
        S2R2Error: ``out`` is the first index, or one of another encoder, or something else; another process writes
            one of the two; or the disk is full.
    """
    out = Path(out)
    layout.check_local(out)
    if out.exists() and out.resolve() == index.folder.resolve():
        raise ArgumentError(f"{out} is the index itself: choose another `out`")
    try:
        make_folder(out)
        with (
            locked(index.folder / layout.LOCK, f"writing the index in {index.folder}", "wait until it has finished"),
            locked(out / layout.LOCK, f"writing the index in {out}", "wait until it has finished"),
        ):
            if index.stale:
                raise S2R2Error(f"an update has changed {index.folder} meanwhile: refine it again")
            return _write(index, encoder, matrix, out)
    except OSError as error:
        raise ArgumentError(f"cannot write the index {out}: {why_not_written(error)}choose another `out`") from error


def _write(index: ImageIndex, encoder: Encoder, matrix: np.ndarray, out: Path) -> Published:
    layout.check_free_for_index(out)
    before = in_force(out)
    if before is not None and before.encoder != encoder.name:
        raise ArgumentError(f"{out} is an index of {before.encoder}: choose another `out`, or delete that index")
    fingerprint = vectors_fingerprint(encoder.fingerprint, index.about.precision)
    generation = out / layout.new_generation(out, fingerprint)  # what a kill left is not gone on with
    encoder.save(generation)
    sync_folder(out)
    first = index.folder / index.about.generation
    files = RowFiles(generation)
    files.restore(trusted=False)
    RowFiles(first).check_for_reading()
    source = Rows(first / layout.ROWS, version=index.about.version)
    rows = Rows(generation / layout.ROWS, source.dimensions)
    for batch in source.scan(source.schema.names):
        rows.add(_with_vectors(batch, matrix, fingerprint))
        files.record()
    if len(rows) != len(index):
        raise layout.DamagedIndex(index.folder, "its rows are not those of its catalogue")
    rows.tidy()
    files.record()
    chosen = index.about.chosen_backend
    backend = backend_for(chosen, len(rows), None)
    number = before.number + 1 if before else 1
    sums, settings = write_for_searches(rows, generation, number, backend)
    for name in (layout.SKIPPED, layout.MARKS):
        if (index.folder / name).exists() and not (name == layout.MARKS and (out / name).exists()):
            write_bytes(out / name, (index.folder / name).read_bytes())
    about = index.about
    published = Published(
        fingerprint=fingerprint, encoder=encoder.name, data=about.data, photos=len(rows), dimensions=about.dimensions,
        skipped=about.skipped, number=number, version=rows.version, backend=backend, backend_settings=settings,
        chosen_backend=chosen, updated=datetime.now().astimezone().isoformat(timespec="seconds"), s2r2=__version__,
        generation=generation.name, files=sums, side=about.side, precision=about.precision,
    )  # fmt: skip
    published.write(out)
    rows.prune()
    files.record()
    layout.remove_leftovers(out, published.generation, names_in_use(published) | {layout.RECORD})
    return published


def _with_vectors(batch: pa.RecordBatch, matrix: np.ndarray, fingerprint: str) -> pa.Table:
    """Rows with the vectors of the refined encoder."""
    dimensions = len(matrix)
    old = batch["vector"].flatten().to_numpy(zero_copy_only=False).reshape(-1, dimensions)
    new = np.asarray(old, np.float32) @ np.asarray(matrix, np.float32).T
    new /= np.linalg.norm(new, axis=1, keepdims=True)
    columns: dict[str, Any] = {name: batch[name] for name in batch.schema.names}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(new.reshape(-1)), dimensions)
    columns["encoder"] = pa.array([fingerprint] * len(new))
    return pa.table(columns, schema=batch.schema)
