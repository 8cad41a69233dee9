"""What a search reads: vectors and descriptions of all photos, mapped into memory from two files."""

import functools
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib import format as npy

from s2r2.images.sources.names import printable
from s2r2.search.storage.layout import DamagedIndex
from s2r2.search.storage.rows import FACTS, Rows, schema
from s2r2.system.files import checksum, refuse_overwriting, sync_folder
from s2r2.system.terminal import visible

_LENGTH_ERROR = 1e-2
_PIECE = 1 << 17
_FIRST = ("id", "key", "location", "label", "file", "offset", "bytes", "modified", "stamp", "content")
COLUMNS = (*_FIRST, *FACTS)


def catalogue_files(number: int) -> tuple[str, str]:
    """Names of the files of catalogue ``number``: vectors, descriptions."""
    return f"vectors-{number}.npy", f"catalogue-{number}.arrow"


def write_catalogue(rows: Rows, folder: Path, number: int) -> dict[str, str]:
    """Write all rows without their thumbnails, a piece at a time: memory does not grow with them.

    Nobody reads the files before ``index.json`` names them, so they need be durable, but not atomic.

    Returns:
        Checksum of each file, by name.

    Raises:
        DamagedIndex: A vector in the rows is not one of length 1.
    """
    vectors_name, described_name = catalogue_files(number)
    count, dimensions = len(rows), rows.dimensions
    layout = _layout(dimensions)
    with open(folder / vectors_name, "wb") as file, open(folder / described_name, "wb") as described:
        file.write(_header(count, dimensions))
        with pa.ipc.new_file(described, layout) as writer:
            waiting: list[pa.RecordBatch] = []
            for batch in rows.scan((*COLUMNS, "vector"), row_ids=True):
                vectors = np.ascontiguousarray(batch["vector"].flatten().to_numpy(), "<f4").reshape(-1, dimensions)
                if (
                    len(vectors) != len(batch)
                    or not (np.abs(np.linalg.norm(vectors, axis=1) - 1) < _LENGTH_ERROR).all()
                ):
                    raise DamagedIndex(folder.parent, "its rows hold vectors that no encoder made")
                file.write(vectors.data)
                waiting.append(batch.select([*COLUMNS, "_rowid"]).cast(layout))
                if sum(map(len, waiting)) >= _PIECE:
                    _write_piece(writer, waiting)
            _write_piece(writer, waiting)
        for written in (file, described):  # only now: closing the writer adds the end of the table
            _make_durable(written)
    sync_folder(folder)
    return {name: checksum(folder / name) for name in (vectors_name, described_name)}


def _write_piece(writer: pa.ipc.RecordBatchFileWriter, waiting: list[pa.RecordBatch]) -> None:
    """Write descriptions as one batch: few large ones are read faster than many small ones."""
    if waiting:
        table = pa.Table.from_batches(waiting).combine_chunks()
        writer.write_table(table, max_chunksize=len(table))
    waiting.clear()


def _header(count: int, dimensions: int) -> bytes:
    """What NumPy writes before the vectors."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (count, dimensions)})
    return file.getvalue()


def _layout(dimensions: int, columns: Sequence[str] = COLUMNS) -> pa.Schema:
    return pa.schema([*(schema(dimensions).field(name) for name in columns), ("_rowid", pa.uint64())])


def _make_durable(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


class Catalogue:
    """An open catalogue of N photos.

    Descriptions are checked when it is opened, the vectors when they are first asked for: that takes as long as reading
    them from the disk, which the first search does in any case.

    Attributes:
        folder: Of the index.
        table: The descriptions, one row a photo.
        has_facts: Whether it was asked when and with what photos were taken; not up to format 4.
    """

    def __init__(
        self, folder: Path, table: pa.Table, has_facts: bool, mapped: np.ndarray, header: int, check: str | None
    ) -> None:
        self.folder = folder.parent
        self.table, self.has_facts = table, has_facts
        self._mapped, self._header, self._check = mapped, header, check

    @classmethod
    def open(cls, folder: Path, number: int, photos: int, dimensions: int, sums: Mapping[str, str]) -> "Catalogue":
        """Map the files of catalogue ``number``.

        Args:
            folder: Of the generation.
            number: Of the catalogue.
            photos: How many photos it must have.
            dimensions: Length of a vector.
            sums: Checksum of each file, by name; empty for format 2, which had none.

        Raises:
            FileNotFoundError: A newer one has taken its place.
            DamagedIndex: The files are not what was written.
        """
        vectors_name, described_name = catalogue_files(number)
        if sums and checksum(folder / described_name) != sums.get(described_name):
            raise DamagedIndex(folder.parent, f"{described_name} is not what was written")
        try:
            with pa.memory_map(str(folder / described_name)) as file:
                table = pa.ipc.open_file(file).read_all()
            if not sums:
                table.validate(full=True)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, ValueError, OSError, OverflowError, MemoryError) as error:
            raise DamagedIndex(folder.parent, f"{described_name}: {error}") from error
        has_facts = table.schema != _layout(dimensions, _FIRST)
        if not has_facts:  # up to format 4
            nulls = (pa.nulls(len(table), schema(dimensions).field(name).type) for name in FACTS)
            table = pa.table([*table.columns[:-1], *nulls, table["_rowid"]], schema=_layout(dimensions))
        if table.schema != _layout(dimensions) or len(table) != photos:
            raise DamagedIndex(folder.parent, f"{described_name} does not describe the {photos} photos")
        header = _header(photos, dimensions)
        with open(folder / vectors_name, "rb") as file:
            whole = os.fstat(file.fileno()).st_size == len(header) + 4 * photos * dimensions
            if not whole or file.read(len(header)) != header:
                raise DamagedIndex(folder.parent, f"{vectors_name} does not hold the vectors of {photos} photos")
            mapped: np.ndarray = np.memmap(file, np.uint8, "r")
        return cls(folder, table, has_facts, mapped, len(header), sums.get(vectors_name))

    @functools.cached_property
    def vectors(self) -> np.ndarray:
        """``(N, D)`` float32 with rows of length 1, mapped from disk.

        Raises:
            DamagedIndex: They are not what was written.
        """
        if self._check is not None and checksum(self._mapped.data) != self._check:
            raise DamagedIndex(self.folder, "its vectors are not what was written")
        flat = self._mapped[self._header :].view("<f4")
        return flat.reshape(len(self), -1) if len(self) else flat.reshape(0, 1)

    def __len__(self) -> int:
        return len(self.table)

    @functools.cached_property
    def ids(self) -> np.ndarray:
        """``(N,)`` int64: id of each photo."""
        return self.table["id"].to_numpy()

    @functools.cached_property
    def row_ids(self) -> np.ndarray:
        """``(N,)`` uint64: LanceDB's address of each row when the catalogue was written."""
        return self.table["_rowid"].to_numpy()

    @functools.cached_property
    def _by_id(self) -> np.ndarray:
        return np.argsort(self.ids)

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Rows of photos by id; -1 for those that are not there."""
        return places_of(self.ids, self._by_id, ids)

    def row_of_id(self, identity: str) -> int | None:
        """Row of the photo whose id these hexadecimal digits are, or None."""
        try:
            number = int(identity, 16)
        except ValueError:
            return None
        if number >> 63:
            return None
        found = int(self.rows_of(np.array([number], np.int64))[0])
        return None if found < 0 else found

    def row_of_key(self, key: str) -> int | None:
        r"""Row of the photo with this key, or None; a line break may be typed as it is shown, ``\n``."""
        found = pc.index(self.table["key"], printable(key)).as_py()
        if found < 0 and "\\" in key:
            odd = np.flatnonzero(pc.match_substring_regex(self.table["key"], r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]"))
            keys = self.table["key"]
            found = next((int(row) for row in odd if visible(keys[int(row)].as_py()) == key), -1)
        return None if found < 0 else int(found)

    @functools.cached_property
    def by_key(self) -> np.ndarray:
        """``(N,)``: rows in the order of their keys, as people browse."""
        return pc.sort_indices(self.table, sort_keys=[("key", "ascending")]).to_numpy()

    @functools.cached_property
    def folders(self) -> tuple[list[str], np.ndarray]:
        """Folders of the photos inside their source, and which of them each photo is in, ``(N,)``."""
        names = pc.replace_substring_regex(self.table["key"], r"/?[^/]*$", "")
        return _coded(names)

    @functools.cached_property
    def labels(self) -> tuple[list[str], np.ndarray]:
        """Distinct label texts (labels of a photo joined by ``;``), and which of them each photo has, ``(N,)``."""
        return _coded(self.table["label"])

    @functools.cached_property
    def cameras(self) -> tuple[list[str], np.ndarray]:
        """Cameras, empty where none is known, and which of them took each photo, ``(N,)``."""
        return _coded(pc.fill_null(self.table["camera"], ""))

    @functools.cached_property
    def taken(self) -> np.ndarray:
        """``(N,)`` float64: when each photo was taken, in seconds since 1970 by the camera's clock; NaN if unknown."""
        return self.table["taken"].to_numpy()

    @functools.cached_property
    def megapixels(self) -> np.ndarray:
        """``(N,)`` float64: size of each picture in millions of pixels; NaN if unknown."""
        width, height = (pc.cast(self.table[name], pa.float64()).to_numpy() for name in ("width", "height"))
        return width * height / 1e6

    def location(self, row: int) -> str:
        """Where a person finds a photo; format 2 kept it as seen from the folder in which ``s2r2 index`` ran."""
        location, file = (self.table[name][row].as_py() for name in ("location", "file"))
        if not file or os.path.isabs(location):
            return str(location)
        _, member, name = location.partition("::") if self.is_member(row) else ("", "", "")
        return printable(os.fsdecode(file)) + member + name

    def refuse_overwriting(self, out: Path, argument: str = "out") -> None:
        """Refuse to write a result over a photo of the index, or the archive that it is in.

        Args:
            out: The file to be written.
            argument: What it is called in Python.

        Raises:
            ArgumentError: There is such a photo.
        """
        file = os.fsencode(os.path.realpath(out))
        if os.path.lexists(out) and pc.index(self.table["file"], file).as_py() >= 0:
            refuse_overwriting(out, [out], argument)

    def is_member(self, row: int) -> bool:
        """Whether the photo is inside an archive, whose members begin behind a header."""
        return int(self.table["offset"][row].as_py()) > 0


def places_of(values: np.ndarray, order: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted value is among distinct ``values`` that ``order`` sorts; -1 if it is not."""
    if len(values) == 0:
        return np.full(len(wanted), -1)
    places = order[np.minimum(np.searchsorted(values, wanted, sorter=order), len(values) - 1)]
    return np.where(values[places] == wanted, places, -1)


def _coded(texts: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    coded = texts.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.chunk(0) if coded.num_chunks else pa.array([], pa.string()).dictionary_encode()
    return coded.dictionary.to_pylist(), coded.indices.to_numpy()
