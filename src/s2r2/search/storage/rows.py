"""The rows of an index in LanceDB: one a photo, whole or not there at all.

LanceDB takes more than a second to import and must not be used in forked processes, so it is imported here only
when a table is opened.
"""

import contextlib
import hashlib
import os
import warnings
from collections.abc import Container, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from s2r2.images import PhotoFacts

TABLE = "photos"
FACTS = {"taken": "double", "camera": "string", "width": "int", "height": "int"}
"""Columns of what a photo's file says of it, null where it says nothing, and LanceDB's types of them."""
_FOR_EVER = timedelta(days=36500)
SCAN = 8192


class Known(NamedTuple):
    """What is remembered of a photo to tell whether it changed."""

    stamp: str
    content: str
    label: str
    location: str


def schema(dimensions: int) -> pa.Schema:
    """Columns of a row.

    ``id`` is a hash of ``key`` and names the photo to the outside; ``key`` and ``location`` are for people; ``file``,
    ``offset`` and ``bytes`` say where its file is; ``modified`` is in seconds since 1970; ``content`` is a hash of
    the file; ``encoder`` is the fingerprint of what made ``vector``, which has length 1. ``taken`` is in seconds since
    1970 by the camera's clock; ``width`` and ``height`` are those of the upright picture.
    """
    return pa.schema(
        [
            ("id", pa.int64()),
            ("key", pa.string()),
            ("location", pa.string()),
            ("label", pa.string()),
            ("file", pa.binary()),
            ("offset", pa.int64()),
            ("bytes", pa.int64()),
            ("modified", pa.float64()),
            ("stamp", pa.string()),
            ("content", pa.string()),
            ("encoder", pa.string()),
            ("thumbnail", pa.binary()),
            ("vector", pa.list_(pa.float32(), dimensions)),
            ("taken", pa.float64()),
            ("camera", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
        ]
    )


def facts_row(facts: PhotoFacts) -> dict[str, Any]:
    """The columns of what a photo's file says of it."""
    taken = None if facts.taken is None else facts.taken + 60 * (facts.offset or 0)
    return {"taken": taken, "camera": facts.camera, "width": facts.width, "height": facts.height}


def photo_id(key: str) -> int:
    """The id of a photo: 63 bits of a hash of its key, so that it stays the same from run to run."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def content_hash(content: bytes) -> str:
    """Hash of a file, by which it is recognized under another name."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


class Rows:
    """The table of one index.

    Args:
        place: Folder where LanceDB keeps its files.
        dimensions: Length of a vector; the table is made if missing. None to open an existing table for reading.
        version: Read this version, whatever an update has written since; the newest once an update has removed it.

    Raises:
        FileNotFoundError: It is opened for reading and is not there.
    """

    def __init__(self, place: str | Path, dimensions: int | None = None, version: int | None = None) -> None:
        import lancedb

        if dimensions is None and not Path(place).is_dir():
            raise FileNotFoundError(f"{place} is not there")  # LanceDB would make it
        database = lancedb.connect(os.path.abspath(place))  # a relative path might be taken for an address
        if dimensions is None:
            try:
                self.table = database.open_table(TABLE)
            except ValueError as error:  # LanceDB's way to say that there is no such table
                raise FileNotFoundError(str(error)) from None
            if version is not None:
                with contextlib.suppress(ValueError, RuntimeError):  # LanceDB's way to say that it is not there
                    self.table.checkout(version)
            self.schema = self.table.schema
        else:
            self.schema = schema(dimensions)
            with contextlib.suppress(ValueError):  # there is none yet
                _add_facts(database.open_table(TABLE))
            self.table = database.create_table(TABLE, schema=self.schema, exist_ok=True)

    def __len__(self) -> int:
        return self.table.count_rows()

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return int(self.schema.field("vector").type.list_size)

    @property
    def version(self) -> int:
        """LanceDB's number of the table's present state."""
        return int(self.table.version)

    def scan(self, columns: Sequence[str], *, row_ids: bool = False) -> Iterator[pa.RecordBatch]:
        """Read some columns of all rows, in pieces; with ``row_ids`` also ``_rowid``, LanceDB's own address."""
        if len(self) == 0:
            return
        query = self.table.search().select(list(columns)).limit(len(self))
        yield from (query.with_row_id(True) if row_ids else query).to_batches(batch_size=SCAN)

    def known(self) -> dict[str, Known]:
        """What is remembered of every photo, by key."""
        found: dict[str, Known] = {}
        for batch in self.scan(("key", *Known._fields)):
            columns = (batch[name].to_pylist() for name in ("key", *Known._fields))
            found.update((key, Known(*rest)) for key, *rest in zip(*columns, strict=True))
        return found

    def by_key(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Whole rows, by key."""
        found: dict[str, dict[str, Any]] = {}
        for condition in _conditions("key", [_quoted(key) for key in keys]):
            rows = self.table.search().where(condition).limit(len(self)).to_arrow()
            found.update((row["key"], row) for row in rows.select(self.schema.names).to_pylist())
        return found

    def without_facts(self) -> set[str]:
        """Keys of the photos of which not even the size is known."""
        query = self.table.search().where("width IS NULL").select(["key"]).limit(len(self))
        return {key for batch in query.to_batches(batch_size=SCAN) for key in batch["key"].to_pylist()}

    def files(self, keys: Container[str]) -> dict[str, bytes]:
        """Where the files of some photos are, by key."""
        found: dict[str, bytes] = {}
        for batch in self.scan(("key", "file")):
            columns = (batch[name].to_pylist() for name in ("key", "file"))
            found.update((key, file) for key, file in zip(*columns, strict=True) if key in keys)
        return found

    def put(self, rows: list[dict[str, Any]], *, new: bool = False) -> None:
        """Write rows in one transaction, in place of those of the same key; ``new`` says that there are none."""
        if not rows:
            return
        table = pa.table(
            {
                name: _vectors(rows, self.schema) if name == "vector" else [row[name] for row in rows]
                for name in self.schema.names
            },
            schema=self.schema,
        )
        if new or len(self) == 0:  # nothing to join with: a third of the time, and less of a large table
            self.table.add(table)
        else:
            self.table.merge_insert("key").when_matched_update_all().when_not_matched_insert_all().execute(table)

    def add(self, rows: pa.Table) -> None:
        """Write rows whose keys are not there yet, in one transaction; columns may be missing."""
        for name in self.schema.names[len(rows.schema) :]:
            rows = rows.append_column(self.schema.field(name), pa.nulls(len(rows), self.schema.field(name).type))
        self.table.add(rows)

    def drop(self, keys: Iterable[str]) -> None:
        """Remove photos."""
        for condition in _conditions("key", sorted(_quoted(key) for key in keys)):
            self.table.delete(condition)

    def tidy(self) -> None:
        """Join small files; nothing is deleted."""
        for index in self.table.list_indices():  # for approximate search, which had one here up to format 3
            self.table.drop_index(index.name)
        optimize(self.table, _FOR_EVER, delete=False)

    def prune(self) -> None:
        """Delete what the present version does not need. Only for the one writer, who holds the lock.

        The age of 0 and unverified files are safe for that reason, and because readers go by the catalogue and ask
        again when a row has moved under them.
        """
        optimize(self.table, timedelta(0), delete=True)

    def cell(self, column: str, identity: int, row_id: int) -> Any:
        """One cell of a photo; by address, or where the address no longer holds, by id. None if it is gone."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = self.table.take_row_ids([row_id]).select(["id", column]).to_arrow()
                if found.num_rows == 1 and found["id"][0].as_py() == identity:
                    return found[column][0].as_py()
            except Exception:  # LanceDB has no narrower class; what matters is decided by the next attempt
                pass
            self.table.checkout_latest()
            found = self.table.search().where(f"id = {identity}").select([column]).limit(1).to_arrow()
        return found[column][0].as_py() if found.num_rows else None


def optimize(table: Any, older_than: timedelta, *, delete: bool) -> None:
    """Join the small files of a table of LanceDB's, and delete versions that are older and, if told to, all else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        table.optimize(cleanup_older_than=older_than, delete_unverified=delete)


def _add_facts(table: Any) -> None:
    """Add the columns that a table of an earlier version lacks."""
    missing = {name: f"cast(null as {kind})" for name, kind in FACTS.items() if name not in table.schema.names}
    if missing:
        table.add_columns(missing)


def _vectors(rows: list[dict[str, Any]], layout: pa.Schema) -> pa.Array:
    flat = np.concatenate([np.asarray(row["vector"], np.float32) for row in rows])
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), layout.field("vector").type.list_size)


def _conditions(column: str, values: Sequence[str], at_once: int = 500) -> Iterator[str]:
    for start in range(0, len(values), at_once):
        yield f"{column} IN ({', '.join(values[start : start + at_once])})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
