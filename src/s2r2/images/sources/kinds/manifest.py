"""Manifests: a table that names images, of any length."""

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from hashlib import blake2b
from pathlib import Path

from s2r2.errors import S2R2Error
from s2r2.images.remote import is_remote
from s2r2.images.sources.joining import part_of
from s2r2.images.sources.kept import UNUSED_DAYS, clear_kept
from s2r2.images.sources.labels import Labels
from s2r2.images.sources.listed_stamps import listed_stamps
from s2r2.images.sources.listing import (
    Listing,
    ListingWriter,
    keep_listing,
    load_listing,
    new_folder,
    put_in_place,
    remove_listing,
)
from s2r2.images.sources.manifest_rows import read_manifest
from s2r2.images.sources.names import printable
from s2r2.images.sources.register import Data, register_source
from s2r2.images.sources.source import FileSource, ImageSource
from s2r2.images.sources.strings import Computed, from_arrow
from s2r2.images.sources.tables import label_lists, row_path
from s2r2.system.cache_folder import cache_folder
from s2r2.system.files import make_folder, stamp
from s2r2.system.locking import locked, say_waiting

TABLES = (".csv", ".parquet")
MANY_ROWS, MANY_BYTES = 1 << 18, 8 << 20
"""A Parquet table of more rows, or a CSV of more bytes, is read once and then mapped from files in the cache folder."""


@register_source(
    "a manifest (.csv, .parquet)",
    "a table with a column path, and optionally label, or labels joined by semicolons, and split",
    parts="those in its column split",
)
def open_manifest(data: Data) -> ImageSource | None:
    """Images listed in a table; relative paths are relative to the table, and no file is looked at.

    A row is an image. Its key is its path; where several rows name the same file, each is an image of its own, and the
    second one's key is ``PATH#2``, the third one's ``PATH#3``, in the order of the rows. A row that names nothing, or
    whose cells cannot be told apart, is left out and listed among the skipped.

    Raises:
        S2R2Error: The table cannot be read, has no ``path`` column, no rows, or ``label`` as well as ``labels``.
    """
    path = data.path
    if path.suffix.lower() not in TABLES or not path.is_file():
        return None
    return part_of(open_table(path), data.part)


def open_table(path: Path, address: str = "") -> ImageSource:
    """The images that a table lists.

    Args:
        path: Its file.
        address: Of what that is a copy; relative paths are relative to it.

    Raises:
        S2R2Error: As :func:`open_manifest`.
    """
    import pyarrow

    table = printable(address or str(path))
    listing = _listing(path, address)
    if not len(listing.names):
        problems = listing.problems
        first = f" that can be used ({problems[0].key}: {problems[0].reason})" if problems else ""
        raise S2R2Error(f"{table} lists no images: it has a header and no rows{first}")
    column = next((name for name in ("label", "labels") if name in listing.cells), None)
    labels = None
    if column is not None:
        labels = Labels.from_cells(listing.cells[column], label_lists(listing.values[column], table))
    source = _Manifest(path, listing, labels, address)
    pyarrow.default_memory_pool().release_unused()  # what reading and counting took is given back at once
    return source


class _Manifest(FileSource):
    """The images of a table, whose other columns are read when somebody asks for them."""

    def __init__(self, table: Path, listing: Listing, labels: Labels | None, address: str) -> None:
        names, odd = from_arrow(listing.names), listing.odd
        folder = address.rpartition("/")[0] or table.parent

        def place(index: int) -> str:
            return row_path(folder, odd.get(index) or names[index])

        identity = address or os.path.join(os.path.realpath(table.parent), table.name)
        paths = Computed(len(names), place)
        super().__init__(
            printable(Path(address or table).name), _keys(listing, names), paths, labels, listing.problems,
            identity=identity,
        )  # fmt: skip
        self.table, self.tables, self.address = table, [table.absolute()], address
        self.columns, self.parts = listing.header, listing.parts
        self.fingerprints: Mapping[str, str] = listing.fingerprints

    def prepare_stamps(self, indices: Sequence[int]) -> None:
        """List them, where that takes fewer requests."""
        self.prepared = listed_stamps({index: path for index in indices if is_remote(path := self.paths[index])})

    def column(self, name: str) -> list[str]:
        """Its cells.

        Raises:
            S2R2Error: The table cannot be read any more, or has other rows now.
        """
        found = read_manifest(self.table, ListingWriter(None), (name,), self.address)
        if len(found.names) != len(self):
            raise S2R2Error(f"{printable(self.address or str(self.table))} has changed while it was read: start again")
        if name == "path":
            cells: list[str] = found.names.to_pylist()
            return cells
        return [found.values[name][cell] for cell in found.cells[name].tolist()]


def _keys(listing: Listing, names: Computed) -> Computed:
    """The paths, numbered where they are repeated."""
    repeats = listing.repeats
    if repeats is None:
        return names

    def key(text: str, repeat: int) -> str:
        return text if repeat == 1 else f"{text}#{repeat}"

    return Computed(
        len(names), lambda index: key(names[index], repeats[index]), lambda: map(key, names, map(int, repeats))
    )


def _listing(path: Path, address: str) -> Listing:
    """What a table lists: of a long one from the cache folder, where the first who opens it keeps it for all.

    Where nothing can be kept, because the folder is read-only or the disk full, it is read into memory.

    Raises:
        S2R2Error: As :func:`s2r2.images.sources.manifest_rows.read_manifest`.
    """
    if not _is_long(path):
        return read_manifest(path, ListingWriter(None), address=address)
    digest = blake2b(os.fsencode(os.path.abspath(path)), digest_size=12).hexdigest()
    with ExitStack() as held:
        try:
            place = cache_folder() / "manifests" / digest
            make_folder(place.parent)
            doing, remedy = f"reading {printable(address or str(path))}", "wait until it has finished"
            held.enter_context(locked(place.with_suffix(".lock"), doing, remedy, wait=math.inf, waiting=say_waiting))
        except (OSError, S2R2Error):
            return read_manifest(path, ListingWriter(None), address=address)
        before = stamp(path)
        found = load_listing(place, before)
        if found is None:
            with suppress(OSError, S2R2Error):  # if it is the table, reading it again says so
                return _kept(path, place, before, address)
        return found or read_manifest(path, ListingWriter(None), address=address)


def _kept(path: Path, place: Path, before: tuple[int, ...], address: str) -> Listing:
    """Read a long table into files, and map them.

    Raises:
        OSError: They cannot be written.
        S2R2Error: The table cannot be read.
    """
    folder = new_folder(place)
    writer = ListingWriter(folder)
    with ExitStack() as failed:
        failed.callback(remove_listing, folder)
        failed.callback(writer.close)
        listing = read_manifest(path, writer, address=address)
        if not len(listing.names) or stamp(path) != before:
            return listing
        keep_listing(listing, folder, before, printable(address or str(path.absolute())))
        put_in_place(folder, place)
        failed.pop_all()
    clear_kept(UNUSED_DAYS)
    found = load_listing(place, before)
    if found is None:
        raise OSError(f"{place} cannot be read back")
    return found


def _is_long(path: Path) -> bool:
    if path.suffix.lower() == ".csv":
        return path.stat().st_size > MANY_BYTES
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            return bool(file.metadata.num_rows > MANY_ROWS)
    except (OSError, ValueError, pyarrow.ArrowException):
        return False  # reading it says what is wrong
