"""What a manifest lists, in memory or, if that is much, in files of the cache folder that all processes share."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.images.places import Stamp
from s2r2.images.sources.skipped import Skipped
from s2r2.images.sources.tables import is_split
from s2r2.system.files import make_folder, sync_folder

Column: TypeAlias = Any
"""A pyarrow ``large_string`` array without nulls; pyarrow is imported when a manifest is opened, and has no types."""

VERSION = 1
NAMES, ABOUT = "names.arrow", "about.json"
_OWN = re.compile(r"names\.arrow|about\.json|repeats\.bin|\d+\.(cells|part)")


@dataclass(frozen=True)
class Listing:
    """The rows of a manifest: each is an image.

    Attributes:
        names: Arrow array of the cells of the column path, in one piece or in several.
        repeats: ``(N,)`` int32: 1 for the first row that names a file, 2 for the second ...; None if none is repeated.
        cells: Of each other column that is looked at, ``(N,)`` int32: which of its values a row has.
        values: Its different values, in the order in which they first appear.
        parts: Numbers of the images of each part that the table names.
        header: Names of all columns of the table.
        odd: By their number, the paths of rows that are no UTF-8; ``names`` holds them in a form that is.
        problems: Rows that are left out.
        fingerprints: Hash of all keys (``""``), and of those of each part, where they are known.
    """

    names: Column
    repeats: np.ndarray | None
    cells: Mapping[str, np.ndarray]
    values: Mapping[str, Sequence[str]]
    parts: Mapping[str, np.ndarray]
    header: tuple[str, ...]
    odd: Mapping[int, str]
    problems: Sequence[Skipped]
    fingerprints: Mapping[str, str]


@dataclass
class ListingWriter:
    """Takes the rows of a manifest block by block, and gives the listing of all of them.

    Args:
        folder: A new folder to be filled with files that :func:`load_listing` maps; None: all is kept in memory.

    Attributes:
        count: Rows so far.
    """

    folder: Path | None
    count: int = 0
    _values: dict[str, dict[str, int]] = field(default_factory=dict)
    _cells: dict[str, Any] = field(default_factory=dict)
    _hashes: list[np.ndarray] = field(default_factory=list)
    _blocks: list[Column] = field(default_factory=list)
    _writer: Any = None

    def add(self, files: Sequence[str], blocks: Mapping[str, Column]) -> None:
        """Take some rows.

        Args:
            files: What the column path says in each, as in its block.
            blocks: The cells of all columns.
        """
        self._hashes.append(np.fromiter(map(hash, files), np.int64, len(files)))
        for name, block in blocks.items():
            if name == "path":
                continue
            values = self._values.setdefault(name, {})
            encoded = block.dictionary_encode()
            numbers = [values.setdefault(value, len(values)) for value in encoded.dictionary.to_pylist()]
            self._keep(name, np.array(numbers, np.int32)[encoded.indices.to_numpy()])
        if self.folder is None:
            self._blocks.append(blocks["path"])
        else:
            self._keep_names(self.folder / NAMES, blocks["path"])
        self.count += len(files)

    def _keep_names(self, path: Path, block: Column) -> None:
        """Write some paths."""
        import pyarrow

        batch = pyarrow.record_batch({"path": block})
        if self._writer is None:
            self._writer = pyarrow.ipc.new_file(str(path), batch.schema)
        self._writer.write_batch(batch)

    def _keep(self, name: str, numbers: np.ndarray) -> None:
        """Add to an array of the listing."""
        if self.folder is None:
            self._cells.setdefault(name, []).append(numbers)
            return
        if name not in self._cells:
            self._cells[name] = (self.folder / f"{len(self._cells)}.cells").open("wb")
        self._cells[name].write(numbers.data)

    def finish(
        self, header: tuple[str, ...], odd: Mapping[int, str], problems: Sequence[Skipped], table: str
    ) -> Listing:
        """The listing; with a folder, of files that are all written but for ``about.json``.

        Raises:
            S2R2Error: A file is really called what a repeated row would be called.
        """
        import pyarrow

        if self.folder is None or not self.count:
            names = pyarrow.chunked_array(self._blocks, pyarrow.large_string())
            cells = {name: np.concatenate(arrays) for name, arrays in self._cells.items()} if self.count else {}
        else:
            self.close()
            names = _mapped_names(self.folder)
            cells = {name: _mapped(Path(file.name), np.int32) for name, file in self._cells.items()}
        hashes = np.concatenate([np.empty(0, np.int64), *self._hashes])
        self._hashes.clear()
        repeats = _repeats(names, hashes, table)
        values = {name: list(found) for name, found in self._values.items()}
        parts = _parts({name: cells[name] for name in cells if is_split(name)}, values)
        return Listing(names, repeats, cells, values, parts, header, odd, problems, {})

    def close(self) -> None:
        """Close the files."""
        for file in self._cells.values() if self.folder is not None else ():
            file.close()
        if self._writer is not None:
            self._writer.close()


def keep_listing(listing: Listing, folder: Path, stamp: Stamp, table: str) -> None:
    """Write what is missing in a folder of :class:`ListingWriter`, with a hash of all keys and of those of each part.

    ``table`` is what to call it in a list of what is kept.

    Raises:
        OSError: The disk is full.
    """
    arrays: dict[str, tuple[str, np.ndarray]] = {}
    if listing.repeats is not None:
        arrays["repeats"] = ("repeats.bin", listing.repeats)
    for number, (part, images) in enumerate(listing.parts.items()):
        arrays[f"part {part}"] = (f"{number}.part", images)
    for name, array in arrays.values():
        array.tofile(folder / name)
    about = {
        "version": VERSION,
        "table": table,
        "stamp": stamp,
        "rows": len(listing.names),
        "repeats": listing.repeats is not None,
        "columns": list(listing.cells),
        "values": listing.values,
        "parts": {part: len(images) for part, images in listing.parts.items()},
        "header": listing.header,
        "odd": list(listing.odd.items()),
        "problems": [(problem.key, problem.reason) for problem in listing.problems],
        "fingerprints": _fingerprints(listing),
    }
    (folder / ABOUT).write_text(json.dumps(about), encoding="utf-8")
    for file in folder.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    sync_folder(folder)


def load_listing(folder: Path, stamp: Stamp) -> Listing | None:
    """The listing in a folder, mapped into memory; None where there is none of this table as it is now."""
    import pyarrow

    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["version"] != VERSION or tuple(about["stamp"]) != stamp:
            return None
        names, rows = _mapped_names(folder), about["rows"]
        repeats = _mapped(folder / "repeats.bin", np.int32, rows) if about["repeats"] else None
        cells = {name: _mapped(folder / f"{i}.cells", np.int32, rows) for i, name in enumerate(about["columns"])}
        parts = {
            part: _mapped(folder / f"{i}.part", np.int64, count)
            for i, (part, count) in enumerate(about["parts"].items())
        }
        if len(names) != rows:
            return None
        with suppress(OSError):
            os.utime(folder / ABOUT)  # when it was last used
        return Listing(
            names, repeats, cells, about["values"], parts, tuple(about["header"]), dict(about["odd"]),
            [Skipped(*entry) for entry in about["problems"]], about["fingerprints"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pyarrow.ArrowException):
        return None


def new_folder(place: Path) -> Path:
    """An empty folder beside the one of a listing, to be put in its place by :func:`put_in_place`.

    Raises:
        S2R2Error: It cannot be made.
        OSError: Likewise.
    """
    folder = place.with_suffix(".new")
    remove_listing(folder)  # what a kill left: only the holder of the lock writes here
    make_folder(folder)
    return folder


def put_in_place(folder: Path, place: Path) -> None:
    """Replace a listing; those who have mapped the one before keep it."""
    remove_listing(place)
    folder.rename(place)
    sync_folder(place.parent)


def remove_listing(folder: Path) -> None:
    """Remove the files of a listing and their folder, and nothing else; ``about.json`` first: half of it is none."""
    with suppress(OSError):
        (folder / ABOUT).unlink(missing_ok=True)
        for file in listing_files(folder):
            file.unlink()
        folder.rmdir()


def listing_files(folder: Path) -> list[Path]:
    """The files of a listing in a folder."""
    return [file for file in folder.iterdir() if _OWN.fullmatch(file.name)]


def _mapped_names(folder: Path) -> Column:
    import pyarrow

    table = pyarrow.ipc.open_file(pyarrow.memory_map(str(folder / NAMES))).read_all()
    table.validate()
    return table["path"]


def _mapped(path: Path, kind: Any, rows: int | None = None) -> np.ndarray:
    """An array in a file.

    Raises:
        ValueError: It has another length.
    """
    array = np.asarray(np.memmap(path, kind, mode="r"))
    if rows is not None and len(array) != rows:
        raise ValueError(f"{path} has {len(array)} rows")
    return array


def _repeats(names: Column, hashes: np.ndarray, table: str) -> np.ndarray | None:
    """How often the file of each row has been named up to that row; None if no file is named twice.

    Only rows whose hash another one has are compared.
    """
    from pyarrow import compute

    ordered = np.sort(hashes)
    several = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not len(several):
        return None
    suspects = np.flatnonzero(np.isin(hashes, several))
    encoded = names.take(suspects).combine_chunks().dictionary_encode()
    cells, values = encoded.indices.to_numpy(), encoded.dictionary
    counts = np.bincount(cells)
    if counts.max() == 1:
        return None
    order = np.argsort(cells, kind="stable")
    first = np.cumsum(counts) - counts
    repeats = np.ones(len(names), np.int32)
    repeats[suspects[order]] = np.arange(len(cells)) - np.repeat(first, counts) + 1
    for chunk in names.chunks:
        for name in chunk.filter(compute.match_substring_regex(chunk, r"#[0-9]+$")).to_pylist():
            plain, _, number = name.rpartition("#")
            found = compute.index(values, plain).as_py()
            if found >= 0 and 2 <= int(number) <= counts[found]:
                raise S2R2Error(f"{table} lists {plain} more than once, and {name} as well: rename that file")
    return repeats


def _parts(cells: Mapping[str, np.ndarray], values: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Numbers of the images of each part that the columns name."""
    found: dict[str, list[np.ndarray]] = {}
    for name, column in cells.items():
        order = np.argsort(column, kind="stable")
        bounds = np.cumsum(np.bincount(column, minlength=len(values[name])))[:-1]
        for value, numbers in zip(values[name], np.split(order, bounds), strict=True):
            if value.strip():
                found.setdefault(value.strip(), []).append(numbers)
    return {name: np.unique(np.concatenate(numbers)) for name, numbers in found.items()}


def _fingerprints(listing: Listing) -> dict[str, str]:
    """Of all keys, and of those of each part, what :attr:`ImageSource.fingerprint` makes of them one by one."""
    digests = {part: hashlib.blake2b(digest_size=16) for part in ("", *listing.parts)}
    for start, keys in _key_blocks(listing):
        digests[""].update(_lines(keys))
        for part, numbers in listing.parts.items():
            low, high = np.searchsorted(numbers, (start, start + len(keys)))
            if high > low:
                digests[part].update(_lines(keys.take(numbers[low:high] - start)))
    return {part: digest.hexdigest() for part, digest in digests.items()}


def _key_blocks(listing: Listing) -> Iterator[tuple[int, Column]]:
    """The keys, as Arrow arrays with the number of their first row."""
    import pyarrow
    from pyarrow import compute

    start = 0
    for keys in listing.names.chunks:
        if listing.repeats is not None:
            repeats = pyarrow.array(listing.repeats[start : start + len(keys)])
            ends = _joined(_text("#"), compute.cast(repeats, pyarrow.large_string()))
            keys = _joined(keys, compute.if_else(compute.equal(repeats, 1), _text(""), ends))
        yield start, keys
        start += len(keys)


def _lines(texts: Column) -> memoryview:
    """The texts, each with a line break behind it."""
    lines = _joined(texts, _text("\n"))
    offsets = np.frombuffer(lines.buffers()[1], np.int64)[lines.offset : lines.offset + len(lines) + 1]
    return memoryview(lines.buffers()[2])[offsets[0] : offsets[-1]]


def _joined(texts: Column, ends: Column) -> Column:
    from pyarrow import compute

    return compute.binary_join_element_wise(texts, ends, _text(""))


def _text(text: str) -> Any:
    import pyarrow

    return pyarrow.scalar(text, pyarrow.large_string())
