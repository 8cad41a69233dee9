"""What searches read, made from the rows of an index: catalogue, map, and what a backend makes of the vectors."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from s2r2.errors import S2R2Error
from s2r2.search.backends.base import AUTO, Before, SearchBackend, Settings, automatic_backend, get_backend
from s2r2.search.storage.catalog import Catalogue, catalogue_files, write_catalogue
from s2r2.search.storage.layout import ENCODER, SEARCH_FILES, remove_search_folder, search_folder
from s2r2.search.storage.published import Published
from s2r2.search.storage.rows import Rows
from s2r2.search.storage.stored_map import map_file, write_map
from s2r2.system.files import checksum, sync_file, sync_folder

if TYPE_CHECKING:
    from s2r2.search.words.vectors import WordVectors

_PIECE = 16_384


def backend_for(chosen: str, photos: int, approximate_from: int | None) -> str:
    """The name of the backend for so many photos; ``chosen`` may leave it open."""
    return automatic_backend(photos, approximate_from) if chosen == AUTO else chosen


def write_for_searches(
    rows: Rows,
    generation: Path,
    number: int,
    backend: str,
    before: Published | None = None,
    words: "WordVectors | None" = None,
) -> tuple[dict[str, str], Settings | None]:
    """Write catalogue ``number``, the map and what the backend needs: all is durable, nothing is in force yet.

    Args:
        rows: The rows.
        generation: Their folder.
        number: Of the catalogue.
        backend: Name of the search backend.
        before: What is published in this generation; its map is brought up to date, and the backend may take over
            what it made for it.
        words: Vectors for words of all photos, if there are to be any.

    Returns:
        Checksum of each file that readers use, by name, and what the backend's ``build`` returns.
    """
    files = write_catalogue(rows, generation, number)
    catalogue = Catalogue.open(generation, number, len(rows), rows.dimensions, files)
    files |= write_map(generation, catalogue, number, before)
    files |= words.write(catalogue, number) if words is not None else {}
    if (generation / ENCODER).exists():  # an index from vectors may have none
        files[ENCODER] = checksum(generation / ENCODER)
    place = generation / search_folder(number)
    settings = _made_by(get_backend(backend), catalogue, place, _made_before(catalogue, generation, before, backend))
    made = _made_durable(place)
    if settings is None or not made:
        remove_search_folder(place)
        return files, settings
    return files | made, settings


def _made_by(backend: type[SearchBackend], catalogue: Catalogue, place: Path, before: Before | None) -> Settings | None:
    """What a backend makes of the vectors, from what it made before where it can."""
    _make_empty(place)  # of what an update that was killed may have left
    settings = None if before is None else backend.update(catalogue.vectors, place, before)
    if settings is None:
        _make_empty(place)
        settings = backend.build(catalogue.vectors, place)
    return settings


def _make_empty(place: Path) -> None:
    remove_search_folder(place)
    place.mkdir(exist_ok=True)


def _made_before(now: Catalogue, generation: Path, published: Published | None, backend: str) -> Before | None:
    """What the backend made of the vectors in force, and which of them are there still; None if it made nothing whole.

    Args:
        now: The new catalogue.
        generation: Its folder.
        published: What is in force there.
        backend: Name of the backend.
    """
    if published is None or published.searched_by != backend or published.backend_settings is None:
        return None
    place = generation / search_folder(published.number)
    made = {name: check for name, check in published.files.items() if name.startswith(f"{place.name}/")}
    if not is_whole(generation, made):
        return None
    try:
        old = Catalogue.open(generation, published.number, published.photos, published.dimensions, published.files)
        rows = old.rows_of(now.ids)
        for start in range(0, len(rows), _PIECE):
            piece = rows[start : start + _PIECE]
            same = (old.vectors[piece] == now.vectors[start : start + _PIECE]).all(1)
            piece[~same] = -1
    except (S2R2Error, OSError):  # an update mends what is damaged
        return None
    return Before(place, published.backend_settings, rows)


def _made_durable(place: Path) -> dict[str, str]:
    """Sync all files below a folder and return their checksums, by names as seen from the folder above it.

    Raises:
        S2R2Error: A file has an ending that no update would remove.
    """
    sums = {}
    for parent, _, names in os.walk(place, topdown=False):
        for path in (Path(parent, name) for name in names):
            if not SEARCH_FILES.fullmatch(path.name):
                path.unlink()  # written just now; no update would remove it
                raise S2R2Error(f"the search backend wrote {path.name}: give it an ending such as .bin, .npy or .json")
            sync_file(path)
            sums[path.relative_to(place.parent).as_posix()] = checksum(path)
        sync_folder(Path(parent))
    sync_folder(place.parent)
    return sums


def is_current(published: Published, generation: Path, version: int, backend: str, words: "WordVectors | None") -> bool:
    """Whether what is published is whole, of this version of the rows, and has all that searches read today."""
    model = ("", "") if words is None else (words.model.name, words.model.fingerprint)
    same = (published.version, published.backend) == (version, backend) and map_file(
        published.number
    ) in published.files
    has_encoder = ENCODER in published.files or not (generation / ENCODER).exists()
    same &= (published.words, published.words_fingerprint) == model
    return same and has_encoder and is_whole(generation, published.files)


def is_whole(generation: Path, files: Mapping[str, str]) -> bool:
    """Whether all files that readers use are there as they were published; format 2 had no checksums."""
    there = all((generation / name).is_file() for name in files)
    return bool(files) and there and all(checksum(generation / name) == check for name, check in files.items())


def names_in_use(published: Published) -> set[str]:
    """Names of files and folders in the generation's folder that readers of what is published use."""
    return {ENCODER, *catalogue_files(published.number), *(name.partition("/")[0] for name in published.files)}
