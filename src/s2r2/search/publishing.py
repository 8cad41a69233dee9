"""What searches of an index read, written from its rows before ``index.json`` names it."""

from collections.abc import Mapping
from pathlib import Path

from s2r2.search.backends import SearchPlace, Settings, find_backend
from s2r2.search.storage.catalog import Catalogue, write_catalogue
from s2r2.search.storage.layout import ENCODER, Published
from s2r2.search.storage.row_files import RowFiles
from s2r2.search.storage.rows import Rows
from s2r2.system.files import checksum, sync_file, sync_folder


def write_files(
    rows: Rows, row_files: RowFiles, generation: Path, number: int, backend: str, before: Published | None
) -> tuple[dict[str, str], Settings | None]:
    """Write catalogue ``number``, and what a search backend makes of it.

    Args:
        rows: The rows, all committed.
        row_files: Their files.
        generation: The folder of all of it.
        number: Of the catalogue.
        backend: Name of the backend.
        before: What is in force in the same generation.

    Returns:
        Checksum of each file, by name; the backend's settings, None where exact search does as well.
    """
    chosen = find_backend(backend)
    settings = before.approximate if before is not None and before.backend == backend else None
    if settings is None:
        rows.drop_vector_index()
    chosen.prepare(rows, settings)
    rows.tidy()
    row_files.record()
    sums = write_catalogue(rows, generation, number)
    sums[ENCODER] = checksum(generation / ENCODER)
    catalogue = Catalogue.open(generation, number, len(rows), rows.dimensions, sums)
    built = chosen.build(SearchPlace(catalogue, lambda: rows, generation, number), settings)
    if built is None:
        return sums, None
    for path in built.files:
        sync_file(path)
        sums[path.name] = checksum(path)
    sync_folder(generation)
    return sums, built.settings


def are_whole(generation: Path, sums: Mapping[str, str]) -> bool:
    """Whether all files that readers use are there as they were published; format 2 did not say."""
    there = all((generation / name).is_file() for name in sums)
    return bool(sums) and there and all(checksum(generation / name) == sums[name] for name in sums)
